"""List the convolutions and linear layers of a network with their shapes and multiply-adds.

The network runs once on the meta device: nothing is computed and no memory is used, and the shapes are those of the
real forward pass, not from a formula for one architecture.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# F(2x2, 3x3) needs 16 multiplications where a direct 3x3 convolution needs 36 (section 2.4).
WINOGRAD_RATIO = Fraction(4, 9)

_KEEP_SHAPE = frozenset(
    [
        "relu",
        "relu_",
        "silu",
        "sigmoid",
        "hardswish",
        "dropout",
        "fill_",
        "zero_",
        "uniform_",
        "normal_",
        "kaiming_uniform_",
        "kaiming_normal_",
        "trunc_normal_",
        "constant_",
    ]
)


class ShapesOnly(TorchFunctionMode):
    """Leaves out functions that change no shape: on the meta device they compute nothing, but take most of the time."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        named = kwargs or {}
        if getattr(function, "__name__", "") in _KEEP_SHAPE:
            return args[0] if args else next(named[name] for name in ("tensor", "input") if name in named)
        return function(*args, **named)


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer in the order of execution; `flops` are multiply-adds for one image.

    `output_px` is the side of the output map (1 for a linear layer), `kind` is `conv` or `linear`.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    dilation: int
    groups: int
    output_px: int
    params: int
    flops: int

    @property
    def winograd_shape(self) -> bool:
        """Whether F(2x2, 3x3) applies: a 3x3 convolution of stride 1 without dilation."""
        return self.kind == "conv" and self.kernel == (3, 3) and self.stride == 1 and self.dilation == 1


def _layer(name: str, module: nn.Conv2d | nn.Linear, output: Tensor) -> Layer:
    params = sum(parameter.numel() for parameter in module.parameters())
    if isinstance(module, nn.Linear):
        flops = output.numel() // output.shape[0] * module.in_features
        return Layer(name, "linear", module.in_features, module.out_features, (1, 1), 1, 1, 1, 1, params, flops)
    per_output = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    return Layer(
        name,
        "conv",
        module.in_channels,
        module.out_channels,
        (module.kernel_size[0], module.kernel_size[1]),
        module.stride[0],
        module.dilation[0],
        module.groups,
        output.shape[-1],
        params,
        output[0].numel() * per_output,
    )


def trace_layers(module: nn.Module, input_px: int) -> list[Layer]:
    """The convolutions and linear layers that one image [1, 3, input_px, input_px] passes in eval mode, in order.

    The module may be on any device; it is not changed and its weights are not copied.
    """
    layers: list[Layer] = []
    handles = [
        child.register_forward_hook(lambda child, _, output, name=name: layers.append(_layer(name, child, output)))
        for name, child in module.named_modules()
        if isinstance(child, nn.Conv2d | nn.Linear)
    ]
    training = {child: child.training for child in module.modules()}
    # A batch norm changes no shape and is not counted, but on the meta device it costs more time than all the rest.
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    named = [*module.named_parameters(), *module.named_buffers()]
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in named}
    dtype = next((tensor.dtype for _, tensor in named if tensor.is_floating_point()), torch.float32)
    try:
        module.eval()
        for norm in norms:
            norm.__dict__["forward"] = lambda features: features
        with torch.no_grad(), torch.device("meta"), ShapesOnly():
            torch.func.functional_call(module, meta, (torch.empty(1, 3, input_px, input_px, dtype=dtype),))
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)
        for handle in handles:
            handle.remove()
        for child, mode in training.items():
            child.training = mode
    return layers
