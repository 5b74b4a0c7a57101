"""In: a network. Out: the graph of its operators, what feeds each, and the feature maps alive between them.

The claims about structure (one operator type, operators per block, memory of a residual block) are decided from these.
"""

import copy
from dataclasses import dataclass

import torch
from torch import fx, nn

from repvgg_companion.complexity.layers import Layer, trace_layers
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import require_model
from repvgg_companion.models.repvgg import ResidualBlock
from repvgg_companion.models.resnet import BasicBlock, Bottleneck

_MODULE_KINDS = {"BatchNorm2d": "batch-norm", "ReLU": "relu", "Linear": "linear", "MaxPool2d": "max-pool"}
_FUNCTION_KINDS = {"add": "add", "iadd": "add", "mean": "average-pool", "relu": "relu"}


@dataclass(frozen=True)
class Operator:
    """One step of the forward pass in eval mode, for one image.

    `kind` is `conv3x3`, `conv1x1`, `batch-norm`, `relu`, `add`, ...; `inputs` names the operators that feed it
    (`images` is the input itself); `elements` is the size of its output; `groups` and `stride` are those of a
    convolution, else 1.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    elements: int
    stride: int = 1
    groups: int = 1


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "call_module":
        module = modules[node.target]
        if isinstance(module, nn.Conv2d):
            return f"conv{module.kernel_size[0]}x{module.kernel_size[1]}"
        kind = type(module).__name__
        return _MODULE_KINDS.get(kind, kind.lower())
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return _FUNCTION_KINDS.get(name, name)


class _Leaves(fx.Tracer):
    # Convolutions of Table 7 that compute their kernel stay one operator.
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def operators(module: nn.Module, input_px: int) -> list[Operator]:
    """The operators that one image [1, 3, input_px, input_px] passes, in order; the module is not changed.

    Identities and dropout, which do nothing in eval mode, are left out.
    """
    module = copy.deepcopy(module).to("meta").eval()
    graph = fx.GraphModule(module, _Leaves().trace(module))
    modules = dict(graph.named_modules())
    sizes = _output_elements(graph, input_px)
    through: dict[fx.Node, str] = {}
    found = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            through[node] = "images"
            continue
        if node.op == "output":
            continue
        feeding = tuple(through[argument] for argument in node.all_input_nodes)
        kind = _kind(node, modules)
        target = modules.get(node.target) if node.op == "call_module" else None
        if kind in ("identity", "dropout", "dropout2d", "getattr", "getitem") and feeding:
            through[node] = feeding[0]
            continue
        name = through[node] = str(node.target) if node.op == "call_module" else node.name
        if any(operator.name == name for operator in found):
            name = through[node] = f"{name}:{node.name}"
        stride, groups = (target.stride[0], target.groups) if isinstance(target, nn.Conv2d) else (1, 1)
        found.append(Operator(name, kind, feeding, sizes.get(node, 0), stride, groups))
    return found


def _output_elements(graph: fx.GraphModule, input_px: int) -> dict[fx.Node, int]:
    sizes: dict[fx.Node, int] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, node: fx.Node):
            value = super().run_node(node)
            if isinstance(value, torch.Tensor):
                sizes[node] = value.numel()
            return value

    with torch.no_grad(), torch.device("meta"):
        Shapes(graph).run(torch.empty(1, 3, input_px, input_px))
    return sizes


def live_feature_maps(steps: list[Operator]) -> list[tuple[str, float]]:
    """After each operator the elements alive, as (name, elements): every map that a later operator still reads.

    Counted at the boundary between operators, as in Figure 3: parameters and the output buffer of the operator that is
    running are ignored.
    """
    elements = {"images": 0} | {step.name: step.elements for step in steps}
    last_use = {name: index for index, step in enumerate(steps) for name in step.inputs}
    live: dict[str, int] = {}
    result = []
    for index, step in enumerate(steps):
        live[step.name] = step.elements
        live = {name: elements[name] for name in live if last_use.get(name, -1) > index or name == step.name}
        result.append((step.name, float(sum(live.values()))))
    return result


def block_feature_maps(kind: str, *, channels: int = 64, px: int = 56) -> list[tuple[str, float]]:
    """Figure 3: (point, live maps in units of the block's input) for two size-keeping layers, batch norms folded.

    `kind` is `residual` or `plain`. The points are the input, after the first layer's convolution, after its ReLU, and
    the end (after the addition). A map that the shortcut still needs counts as long as it is needed.
    """
    unit = channels * px * px
    if kind == "residual":
        block = BasicBlock(channels, channels)
        block.bn1, block.bn2 = nn.Identity(), nn.Identity()
    elif kind == "plain":
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        block = nn.Sequential(convs[0], nn.ReLU(inplace=True), convs[1], nn.ReLU(inplace=True))
    else:
        raise ValueError(f"kind is 'residual' or 'plain', not {kind!r}")
    stem = nn.Conv2d(3, channels, 1)  # its output is the block's input, an ordinary map
    steps = operators(nn.Sequential(stem, block), px)
    live = [value / unit for _, value in live_feature_maps(steps)]
    end = next((i for i, step in enumerate(steps) if step.kind == "add"), len(steps) - 1)
    return [("input", live[0]), ("after first convolution", live[1]), ("after ReLU", live[2]), ("end", live[end])]


def body_operators(name: str, *, form: str = "deploy") -> list[Operator]:
    """The operators of a named network without its head (all before the last average pooling), at its input size."""
    spec = require_model(name)
    with torch.device("meta"):
        module = build_model(name, num_classes=spec.num_classes, form=form)
    steps = operators(module, spec.input_px)
    head = max((i for i, step in enumerate(steps) if step.kind in ("average-pool", "adaptiveavgpool2d")), default=None)
    return steps[:head]


def convolutions_per_block(name: str) -> list[int]:
    """Convolutions on the main path of each building block at inference (section 3.1), shortcuts left out.

    1 for a RepVGG layer, 2 for a basic block, 3 for a bottleneck.
    """
    spec = require_model(name)
    with torch.device("meta"):
        module = build_model(name, form="deploy" if spec.convertible else "train")
    if spec.family == "RepVGG" and spec.convertible:
        return [1 for step in body_operators(name) if step.kind.startswith("conv")]
    kinds = (BasicBlock, Bottleneck, ResidualBlock)
    counts = []
    for block in module.modules():
        if isinstance(block, kinds):
            main = [
                child for child_name, child in block.named_children() if child_name not in ("downsample", "shortcut")
            ]
            counts.append(sum(isinstance(layer, nn.Conv2d) for child in main for layer in child.modules()))
    return counts


def layers_at(name: str, output_px: int, *, input_px: int | None = None) -> list[Layer]:
    """The convolutions of a named network whose output has `output_px` pixels a side, shortcuts left out.

    ResNet-101 has 69 of them at 14 px (section 3.4).
    """
    return [layer for layer in named_layers(name, input_px=input_px) if layer.output_px == output_px
            and layer.kind == "conv" and "downsample" not in layer.name and "shortcut" not in layer.name]  # fmt: skip


def named_layers(name: str, *, form: str | None = None, input_px: int | None = None) -> list[Layer]:
    """The layers of a named network at full width; by default in deploy form where it has one, at its input size."""
    spec = require_model(name)
    with torch.device("meta"):
        module = build_model(
            name, num_classes=spec.num_classes, form=form or ("deploy" if spec.convertible else "train")
        )
    return trace_layers(module, input_px or spec.input_px)
