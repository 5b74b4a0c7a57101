"""Fused inference: convolution, bias, addition and ReLU of a network in deploy form become one operator.

On a CPU the operators are oneDNN's with weights laid out once (eager re-lays them at every call), on a GPU cuDNN's.
torch.compile uses the same ones on a CPU, after a minute of compiling; here it takes a second.
"""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from repvgg_companion.speed.clocks import clock_for

_RELUS = {functional.relu, torch.relu, torch.relu_}
_ADDITIONS = {operator.add, operator.iadd, torch.add}
WAYS = ("fused", "space-to-depth", "separate")
"""How a GPU computes one: by cuDNN's operator, by it on blocks of pixels, or by one operator after the other."""
_ROUNDING = 0.02
"""How far the ways may differ, relative to the largest value: twice the rounding of bf16 and some more."""


class NotFusable(Exception):
    """Why a network has no fused form, in one short phrase."""


class FusedConvolution(nn.Module):
    """relu(conv(x) + bias), relu(conv(x) + bias + other), or the convolution alone; shapes as the convolution's.

    `relu` and `adds` say what is fused in. Built for one input shape on a CPU, because the layout of the weights
    depends on it. On a GPU `choose_way` finds the fastest of `WAYS` for the shapes it is given.
    """

    def __init__(self, conv: nn.Conv2d, input_shape: tuple[int, ...], *, relu: bool, adds: bool) -> None:
        super().__init__()
        self.relu, self.adds = relu, adds
        self.geometry = ([*conv.stride], [int(side) for side in conv.padding], [*conv.dilation], conv.groups)
        weight, bias = conv.weight.detach(), conv.bias
        self.on_cpu = weight.device.type == "cpu"
        if bias is None:
            bias = torch.zeros(conv.out_channels, device=weight.device, dtype=weight.dtype)
        if self.on_cpu:
            stride, padding, dilation, groups = self.geometry
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight, padding, stride, dilation, groups, list(input_shape)
            )
        # Plain attributes: an opaque oneDNN tensor cannot be moved or copied like a parameter.
        self.weight, self.bias = weight, bias.detach()
        self.way = "fused"
        self._unfolded: Tensor | None = None

    @property
    def is_fused(self) -> bool:
        """Whether it runs as one fused operator."""
        return self.way != "separate"

    def forward(self, images: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute the convolution; shapes as in the docstring of the class."""
        stride, padding, dilation, groups = self.geometry
        if self.on_cpu:
            packed = (self.weight, self.bias, padding, stride, dilation, groups)
            if other is not None:
                return torch.ops.mkldnn._convolution_pointwise.binary(
                    images, other, *packed, "add", 1.0, "relu" if self.relu else None, [], ""
                )
            return torch.ops.mkldnn._convolution_pointwise.default(
                images, *packed, "relu" if self.relu else "none", [], ""
            )
        weight, bias = self.weight, self.bias
        if self.way == "space-to-depth":
            if self._unfolded is None:
                self._unfolded = space_to_depth_weight(weight)
            blocks = space_to_depth(images)
            return torch.cudnn_convolution_relu(blocks, self._unfolded, bias, [1, 1], [0, 0], dilation, groups)
        if self.way == "fused" and other is not None:
            return torch.cudnn_convolution_add_relu(images, weight, other, 1.0, bias, stride, padding, dilation, groups)
        if self.way == "fused":
            return torch.cudnn_convolution_relu(images, weight, bias, stride, padding, dilation, groups)
        result = functional.conv2d(images, weight, bias, stride, padding, dilation, groups)
        if other is not None:
            result += other
        return functional.relu_(result) if self.relu else result

    def choose_way(self, images: Tensor, other: Tensor | None = None) -> None:
        """Time the ways for inputs of these shapes on a GPU and take the fastest that is right.

        cuDNN lacks the fused operator for some layers, and for some grouped ones it is slower than single operators.
        Passes on out of memory and a lost device.
        """
        clock, shortest = clock_for(images.device.type), {}
        self.way = "separate"
        expected = self(images, other)
        for way in WAYS:
            if way == "space-to-depth" and not self._takes_space_to_depth(images):
                continue
            self.way = way
            try:
                error = (self(images, other) - expected).abs().max()
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except RuntimeError:
                continue
            if error <= _ROUNDING * expected.abs().max():
                shortest[way] = min(clock.time_block(lambda: self(images, other), 2) for _ in range(3))
        self.way = min(shortest, key=lambda way: shortest[way], default="separate")

    def _takes_space_to_depth(self, images: Tensor) -> bool:
        height, width = images.shape[2:]
        channels = self.weight.shape[1]
        fits = self.geometry == ([2, 2], [1, 1], [1, 1], 1) and self.weight.shape[2:] == (3, 3) and channels <= 4
        return fits and self.relu and not self.adds and height % 2 == 0 and width % 2 == 0


def space_to_depth(images: Tensor) -> Tensor:
    """[N, C, H, W] of at most four channels as blocks of 2 x 2 pixels: [N, 16, H/2 + 1, W/2 + 1], channels last.

    The first row and column of blocks are zeros, and so are the channels that fill up to four.
    """
    count, channels, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1).view(count, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
    blocks = functional.pad(pixels, (0, 4 - channels, 0, 0, 0, 0, 1, 0, 1, 0))
    return blocks.view(count, height // 2 + 1, width // 2 + 1, 16).permute(0, 3, 1, 2)


def space_to_depth_weight(weight: Tensor) -> Tensor:
    """The weight [K, C, 3, 3] of a convolution of stride 2 and padding 1 for `space_to_depth`: [K, 16, 2, 2].

    Tensor cores want eight or sixteen channels; a stem has three.
    """
    filters, channels = weight.shape[:2]
    padded = functional.pad(weight, (1, 0, 1, 0, 0, 4 - channels))
    blocks = padded.view(filters, 4, 2, 2, 2, 2).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(filters, 16, 2, 2).contiguous(memory_format=torch.channels_last)


def fuse(module: nn.Module, images: Tensor) -> fx.GraphModule:
    """A copy of the graph of `module` in eval mode with fused convolutions, for inputs of the shape of `images`.

    `module` is not changed; on a GPU the copy shares its weights. Raises NotFusable if the network cannot be traced
    or the platform lacks the operators.
    """
    if module.training:
        raise NotFusable("it is in train mode")
    if images.device.type == "cpu" and not torch.backends.mkldnn.is_available():
        raise NotFusable("this torch has no oneDNN")
    try:
        graph_module = fx.symbolic_trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise NotFusable(f"it cannot be traced ({type(error).__name__})") from None
    _note_shapes(graph_module, images)
    modules = dict(graph_module.named_modules())
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for number, node in enumerate(list(graph.nodes)):
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d):
            _fuse_convolution(graph_module, modules, node, number)
    graph.eliminate_dead_code()
    graph.lint()
    graph_module.recompile()
    graph_module.delete_all_unused_submodules()
    return graph_module


def _note_shapes(graph_module: fx.GraphModule, images: Tensor) -> None:
    """Note the shape, type and layout of every node; on a CPU without computing them, which may take seconds."""
    if images.device.type != "cpu":
        fx.passes.shape_prop.ShapeProp(graph_module).propagate(images)
        return
    tensors = (*graph_module.parameters(), *graph_module.buffers())
    on_meta = copy.deepcopy(graph_module, {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors})
    fx.passes.shape_prop.ShapeProp(on_meta).propagate(images.to("meta"))
    for node, noted in zip(graph_module.graph.nodes, on_meta.graph.nodes, strict=True):
        node.meta = dict(noted.meta)


def count_fused(module: nn.Module) -> tuple[int, int]:
    """Convolutions of a network that run as one fused operator, and all that could."""
    fused = [part for part in module.modules() if isinstance(part, FusedConvolution) and (part.relu or part.adds)]
    return sum(part.is_fused for part in fused), len(fused)


def ways_of(module: nn.Module) -> dict[str, int]:
    """How many convolutions of a network a GPU computes in each of `WAYS`."""
    ways = [part.way for part in module.modules() if isinstance(part, FusedConvolution) and not part.on_cpu]
    return {way: ways.count(way) for way in WAYS if way in ways}


def _fuse_convolution(root: fx.GraphModule, modules: dict[str, nn.Module], node: fx.Node, number: int) -> None:
    conv = modules[str(node.target)]
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or type(conv) is not nn.Conv2d:
        return
    addition = _only_user(node, lambda user: user.op == "call_function" and user.target in _ADDITIONS)
    relu = _only_user(node, lambda user: _is_relu(user, modules))
    last, other = node, None
    if relu is not None:
        last = relu
    elif addition is not None and len(addition.all_input_nodes) == 2:
        after = _only_user(addition, lambda user: _is_relu(user, modules))
        first, second = addition.args[:2]
        partner = second if first is node else first
        # A fused sum needs an operand of the same shape; a sum that broadcasts stays an operator of its own.
        if after is not None and _shape(partner) == _shape(node) and addition.kwargs.get("alpha", 1) == 1:
            last, other, relu = after, partner, after
    if relu is None and conv.weight.device.type != "cpu":
        return  # nothing to fuse with, and no weights to lay out once
    name = f"fused_{number}"
    fused = FusedConvolution(conv, tuple(_shape(node.args[0])), relu=relu is not None, adds=other is not None)
    if not fused.on_cpu:
        fused.choose_way(_like(node.args[0], fused.weight), None if other is None else _like(other, fused.weight))
    root.add_submodule(name, fused)
    with root.graph.inserting_before(last):
        new = root.graph.call_module(name, (node.args[0],) if other is None else (node.args[0], other))
    new.meta = dict(last.meta)
    last.replace_all_uses_with(new)
    for old in (last, addition if other is not None else None, node):
        if old is not None and not old.users and old in root.graph.nodes:
            root.graph.erase_node(old)


def _only_user(node: fx.Node, fits: Callable[[fx.Node], bool]) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and fits(users[0]) else None


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_function":
        return node.target in _RELUS
    return node.op == "call_module" and isinstance(modules.get(str(node.target)), nn.ReLU)


def _like(node: Any, weight: Tensor) -> Tensor:
    """A random tensor of the shape, type and layout that a node had, on the device of `weight`."""
    meta = node.meta["tensor_meta"]
    layout = meta.memory_format or torch.contiguous_format
    return torch.randn(meta.shape, dtype=meta.dtype, device=weight.device).contiguous(memory_format=layout)


def _shape(node: Any) -> tuple[int, ...]:
    found = node.meta.get("tensor_meta")
    return tuple(found.shape) if found is not None else ()
