"""Convert the state dict of a train form into that of its deploy form (section 3.3).

All arithmetic is in float64, whatever the types of the file; the result is rounded once, at the end. Kernels are
computed in slices of output channels that fit into the processor's cache, and the 1x1 and identity branches are added
to the centre tap in place instead of being padded to 3x3.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from repvgg_companion.errors import CompanionError
from repvgg_companion.models.blocks import DiracConv, IdentityPlusConv, RepVGGBlock
from repvgg_companion.models.build import build_model
from repvgg_companion.models.fold import fold_parameters, foldable_pairs, norm_scale_and_shift
from repvgg_companion.models.load_form import require_state
from repvgg_companion.models.names import require_convertible

# Elements of a slice: 2 MiB in float64, about what the second-level cache holds.
_SLICE_ELEMENTS = 1 << 18


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one CPU thread inside this context.

    The arithmetic here is limited by memory, and on a busy machine every operation on several threads waits for the
    slowest one (measured: 20 times slower).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def convert_model(
    name: str,
    state: Mapping[str, Tensor],
    *,
    num_classes: int = 1000,
    width: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """The deploy state dict of the named network, computed in float64 and rounded once to `dtype`.

    Raises CompanionError if the network has no deploy form, or tensors are missing, unknown or misshapen.
    """
    require_convertible(name)
    with torch.device("meta"):
        module = build_model(name, num_classes=num_classes, width=width)
    require_state(module, state, name)
    return convert(module, state, dtype=dtype)


@one_thread()
def convert(
    module: nn.Module, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """The deploy state dict of a train-form `module`, with the weights in `state` (default: its own).

    RepVGG blocks become one 3x3 convolution (`rbr_reparam`), other conv-BN pairs are folded, the rest is copied;
    PSPNet's auxiliary head, which only training uses, is left out. `module` may lie on the meta device and is not
    changed. Computed in float64 on the device of `state`, rounded once to `dtype`.
    """
    state = module.state_dict() if state is None else state
    rest = {key: tensor.detach() for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    rest = {key: tensor for key, tensor in rest.items() if not key.startswith("auxiliary.")}
    deploy: dict[str, Tensor] = {}
    for path, block in module.named_modules():
        if isinstance(block, RepVGGBlock) and not block.deploy:
            prefix = f"{path}." if path else ""
            own = {key.removeprefix(prefix): rest.pop(key) for key in list(rest) if key.startswith(prefix)}
            rest |= {prefix + key: own.pop(key) for key in list(own) if key.startswith("se.")}
            kernel, bias = fuse_block(block, own, dtype=dtype)
            deploy |= {f"{prefix}rbr_reparam.weight": kernel, f"{prefix}rbr_reparam.bias": bias}
    for conv_path, _, norm_path, norm in foldable_pairs(module):
        if f"{conv_path}.weight" not in rest:
            continue
        norms = _double({name: rest.pop(f"{norm_path}.{name}") for name in _NORM_TENSORS})
        conv_bias = rest.pop(f"{conv_path}.bias", None)
        kernel, bias = fold_parameters(
            rest.pop(f"{conv_path}.weight").double(),
            None if conv_bias is None else conv_bias.double(),
            norms,
            norm.eps,
        )
        deploy |= {f"{conv_path}.weight": kernel.to(dtype), f"{conv_path}.bias": bias.to(dtype)}
    return deploy | {key: tensor.to(dtype) for key, tensor in rest.items()}


_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


def _double(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def fuse_block(block: RepVGGBlock, state: Mapping[str, Tensor], *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Kernel [O, I/g, 3, 3] and bias [O] of the one convolution that equals `block` in eval mode.

    `state` holds the block's own tensors under the block's own names. Raises CompanionError for a block with a ReLU in
    its branches.
    """
    if block.grammar.branch_relu:
        raise CompanionError("a block with a ReLU in its branches cannot become one convolution")
    branches = dict(block.branches())
    device = state["rbr_dense.conv.weight"].device
    bias = torch.zeros(block.out_channels, dtype=torch.float64, device=device)
    scales: dict[str, Tensor] = {}
    for name, branch in branches.items():
        norm = branch if isinstance(branch, nn.BatchNorm2d) else getattr(branch, "bn", None)
        scales[name] = torch.ones_like(bias)
        if norm is not None:
            prefix = name if branch is norm else f"{name}.bn"
            scales[name], shift = norm_scale_and_shift(
                _double({key: state[f"{prefix}.{key}"] for key in _NORM_TENSORS}), norm.eps
            )
            bias += shift
    post_scale = None
    if hasattr(block, "bn"):
        # One batch norm after the sum: it scales the summed kernel and the (zero) summed bias.
        norms = _double({key: state[f"bn.{key}"] for key in _NORM_TENSORS})
        post_scale, bias = norm_scale_and_shift(norms, block.bn.eps)

    dense = state["rbr_dense.conv.weight"]
    kernel = torch.empty(dense.shape, dtype=dtype, device=device)
    step = min(max(1, _SLICE_ELEMENTS // dense[0].numel()), len(dense))
    scratch = None if dtype == torch.float64 else dense.new_empty((step, *dense.shape[1:]), dtype=torch.float64)
    for start in range(0, block.out_channels, step):
        part = slice(start, min(start + step, block.out_channels))
        taps = kernel[part] if scratch is None else scratch[: part.stop - part.start]
        weight = _dense_weight(block.rbr_dense.conv, state, part)
        taps.copy_(weight).mul_(scales["rbr_dense"][part, None, None, None])
        if "rbr_1x1" in branches:
            taps[:, :, 1, 1] += state["rbr_1x1.conv.weight"][part, :, 0, 0] * scales["rbr_1x1"][part, None]
        if "rbr_1x3" in branches:
            taps[:, :, 1, :] += state["rbr_1x3.conv.weight"][part, :, 0] * scales["rbr_1x3"][part, None, None]
            taps[:, :, :, 1] += state["rbr_3x1.conv.weight"][part, ..., 0] * scales["rbr_3x1"][part, None, None]
        if "rbr_identity" in branches:
            _add_identity(taps, part, scales["rbr_identity"][part])
        if post_scale is not None:
            taps.mul_(post_scale[part, None, None, None])
        if scratch is not None:
            kernel[part] = taps
    return kernel, bias.to(dtype)


def _add_identity(taps: Tensor, part: slice, value: Tensor | float) -> None:
    """Add `value` at input channel o of output channel o, for the o in `part`; in its group that is o modulo I/g."""
    channels = torch.arange(part.start, part.stop, device=taps.device)
    taps[channels - part.start, channels % taps.shape[1], 1, 1] += value


def _dense_weight(conv: nn.Conv2d, state: Mapping[str, Tensor], part: slice) -> Tensor:
    """The effective 3x3 kernel of the dense branch for some output channels."""
    weight = state["rbr_dense.conv.weight"][part]
    if isinstance(conv, DiracConv):
        weight = weight.double()
        norms = weight.flatten(1).norm(dim=1).clamp_min(1e-12)  # the floor of torch.nn.functional.normalize
        weight = weight * (state["rbr_dense.conv.beta"][part] / norms)[:, None, None, None]
        _add_identity(weight, part, state["rbr_dense.conv.alpha"][part].double())
    elif isinstance(conv, IdentityPlusConv):
        weight = weight.to(torch.float64, copy=True)
        _add_identity(weight, part, 1.0)
    return weight
