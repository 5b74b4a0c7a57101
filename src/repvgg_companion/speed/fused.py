"""Fused inference: convolution, bias, addition and ReLU of a network in deploy form become one operator.

On a CPU the operators are oneDNN's with weights laid out once (eager re-lays them at every call), on a GPU cuDNN's.
torch.compile uses the same ones on a CPU, after a minute of compiling; here it takes a second.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_RELUS = {functional.relu, torch.relu, torch.relu_}
_ADDITIONS = {operator.add, operator.iadd, torch.add}


class NotFusable(Exception):
    """Why a network has no fused form, in one short phrase."""


class FusedConvolution(nn.Module):
    """relu(conv(x) + bias), relu(conv(x) + bias + other), or the convolution alone; shapes as the convolution's.

    `relu` and `adds` say what is fused in. Built for one input shape on a CPU, because the layout of the weights
    depends on it. `native` is false where a GPU's cuDNN lacks the fused operator for this layer (some grouped ones);
    the same is then computed by one operator after the other.
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
        self.native = True

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
        if self.native and other is not None:
            return torch.cudnn_convolution_add_relu(images, weight, other, 1.0, bias, stride, padding, dilation, groups)
        if self.native and self.relu:
            return torch.cudnn_convolution_relu(images, weight, bias, stride, padding, dilation, groups)
        result = functional.conv2d(images, weight, bias, stride, padding, dilation, groups)
        if other is not None:
            result += other
        return functional.relu_(result) if self.relu else result

    def try_native(self, images: Tensor, other: Tensor | None = None) -> None:
        """Run once for inputs of these shapes and set `native`; passes on out of memory and a lost device."""
        try:
            self(images, other)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError:
            self.native = False
            self(images, other)


def fuse(module: nn.Module, images: Tensor) -> fx.GraphModule:
    """A copy of the graph of `module` in eval mode with fused convolutions, for inputs of the shape of `images`.

    `module` is not changed; on a GPU the copy shares its weights. Raises NotFusable where the network cannot be traced
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
    fx.passes.shape_prop.ShapeProp(graph_module).propagate(images)
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


def count_native(module: nn.Module) -> tuple[int, int]:
    """Fused convolutions of a network that the device has an operator for, and all of them."""
    fused = [part for part in module.modules() if isinstance(part, FusedConvolution) and (part.relu or part.adds)]
    return sum(part.native for part in fused), len(fused)


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
        # A sum needs an operand of the same shape; a broadcast one stays an operator of its own.
        if after is not None and _shape(partner) == _shape(node) and addition.kwargs.get("alpha", 1) == 1:
            last, other, relu = after, partner, after
    name = f"fused_{number}"
    fused = FusedConvolution(conv, tuple(_shape(node.args[0])), relu=relu is not None, adds=other is not None)
    if not fused.on_cpu:
        fused.try_native(_like(node.args[0], fused.weight), None if other is None else _like(other, fused.weight))
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
    """An uninitialised tensor of the shape, type and layout that a node had, on the device of `weight`."""
    meta = node.meta["tensor_meta"]
    layout = meta.memory_format or torch.contiguous_format
    return torch.empty(meta.shape, dtype=meta.dtype, device=weight.device, memory_format=layout)


def _shape(node: Any) -> tuple[int, ...]:
    found = node.meta.get("tensor_meta")
    return tuple(found.shape) if found is not None else ()
