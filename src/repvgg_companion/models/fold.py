"""Fold every batch norm that directly follows a convolution into it.

The paper folds the conv-BN pairs of every baseline before it measures speed and counts parameters (section 4.1).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from repvgg_companion.models.blocks import ConvBatchNorm, IdentityPlusConv, RepVGGBlock


def foldable_pairs(module: nn.Module) -> Iterator[tuple[str, nn.Conv2d, str, nn.BatchNorm2d]]:
    """Each convolution with the batch norm registered right after it: (conv name, conv, norm name, norm).

    In all networks of this package a batch norm registered right after a convolution of as many channels is applied to
    that convolution's output and to nothing else. Convolutions inside a RepVGG block are left to the block.
    """
    for prefix, parent in module.named_modules():
        if isinstance(parent, RepVGGBlock) or ".rbr_" in f".{prefix}":
            continue
        previous: tuple[str, nn.Module] | None = None
        for name, child in parent.named_children():
            path = f"{prefix}.{name}" if prefix else name
            if (
                isinstance(child, nn.BatchNorm2d)
                and previous is not None
                and isinstance(previous[1], nn.Conv2d)
                and previous[1].out_channels == child.num_features
            ):
                yield previous[0], previous[1], path, child
            previous = (path, child)


def norm_scale_and_shift(norm: dict[str, Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
    """The factor and the offset, each [O], that a batch norm in eval mode applies to a channel (section 3.3).

    `norm` holds weight, bias, running_mean and running_var; the epsilon is inside the root, as in PyTorch.
    """
    scale = norm["weight"] / torch.sqrt(norm["running_var"] + epsilon)
    return scale, norm["bias"] - norm["running_mean"] * scale


def fold_parameters(
    kernel: Tensor, bias: Tensor | None, norm: dict[str, Tensor], epsilon: float
) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution that equals convolution plus batch norm in eval mode (section 3.3).

    `norm` is as in `norm_scale_and_shift`; the kernel [O, ...] is scaled per output channel.
    """
    scale, shift = norm_scale_and_shift(norm, epsilon)
    if bias is not None:
        shift = shift + bias * scale
    return kernel * scale.view(-1, *[1] * (kernel.dim() - 1)), shift


def norm_tensors(norm: nn.BatchNorm2d) -> dict[str, Tensor]:
    """The four tensors of a batch norm that `fold_parameters` needs."""
    return {name: getattr(norm, name).detach() for name in ("weight", "bias", "running_mean", "running_var")}


def _replace(root: nn.Module, path: str, new: nn.Module) -> None:
    parent_path, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent_path), name, new)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    kernel = conv.kernel() if isinstance(conv, IdentityPlusConv) else conv.weight
    norms = {name: tensor.double() for name, tensor in norm_tensors(norm).items()}
    bias = None if conv.bias is None else conv.bias.detach().double()
    weight, shift = fold_parameters(kernel.detach().double(), bias, norms, norm.eps)
    return nn.Parameter(weight.to(conv.weight.dtype)), nn.Parameter(shift.to(conv.weight.dtype))


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold every conv-BN pair of `module` in place, branches of RepVGG blocks included, and return it.

    Values are those of eval mode, computed in float64 and rounded once. A batch norm without a convolution before it
    (the identity branch) stays. Works on the meta device, where only the structure changes.
    """
    pairs = list(foldable_pairs(module))
    for name, child in module.named_modules():
        for branch_name, branch in child.branches() if isinstance(child, RepVGGBlock) else ():
            if isinstance(branch, ConvBatchNorm) and hasattr(branch, "bn"):
                prefix = f"{name}.{branch_name}" if name else branch_name
                pairs.append((f"{prefix}.conv", branch.conv, f"{prefix}.bn", branch.bn))
    for conv_path, conv, norm_path, norm in pairs:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        shape: dict[str, Any] = {name: getattr(conv, name) for name in names}
        folded = nn.Conv2d(**shape, device="meta", dtype=conv.weight.dtype)
        if not conv.weight.is_meta:  # arithmetic on shapes alone would take most of the time
            folded.weight, folded.bias = _folded(conv, norm)
        folded.train(conv.training)
        _replace(module, conv_path, folded)
        _replace(module, norm_path, nn.Identity())
    return module
