"""What the structure of the networks alone decides, by walking the built networks. Imports torch.

Each function belongs to a sentence of the paper, named in its docstring. Networks are built on the meta device, so that
nothing is computed; only `conversion_errors` runs one for real.
"""

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import fx, nn

from repvgg_companion.complexity.count_complexity import paper_layers, paper_network
from repvgg_companion.complexity.layers import Layer
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import REPVGG_MODELS, require_model
from repvgg_companion.models.repvgg import ResidualBlock
from repvgg_companion.models.resnet import BasicBlock, Bottleneck

PAPER_REPVGG = tuple(name for name in REPVGG_MODELS if name != "RepVGG-D2se")
"""The variants of Tables 3 to 5 with their g2 and g4 forms; D2se was published after the paper."""


def layers_of(name: str, form: str) -> tuple[Layer, ...]:
    """The convolution and linear layers of a network at the paper's input size, in the order of execution."""
    return paper_layers(name, form, require_model(name).input_px)


def ensemble_members(name: str, stage: int) -> int:
    """Paths through stage `stage` (1 to 5) of the train form: the product of the branches of its blocks (section 2.2).

    A residual block counts two paths, its shortcut and its layers.
    """
    blocks = getattr(paper_network(name, "train"), f"stage{stage - 1}")
    paths = [2 if isinstance(block, ResidualBlock) else len(block.branches()) for block in blocks]
    return math.prod(paths)


def main_path_layers(name: str, output_px: int) -> int:
    """Convolutions with an output of `output_px`, shortcut projections left out (section 3.4: 69 in ResNet-101)."""
    found = [layer for layer in layers_of(name, "deploy") if layer.kind == "conv" and layer.output_px == output_px]
    return sum("downsample" not in layer.name for layer in found)


@cache
def body_faults(name: str) -> list[str]:
    """Operators of the deploy form's body that are neither a 3x3 convolution nor a ReLU, or that branch (section 1).

    The body ends where the global average begins. An empty list means a plain network.
    """
    module = paper_network(name, "deploy")
    graph = fx.symbolic_trace(module).graph
    modules = dict(module.named_modules())
    faults, previous = [], None
    for node in graph.nodes:
        if node.op == "placeholder":
            previous = node
            continue
        if "mean" in str(node.target):
            break
        is_conv = node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d)
        if not (is_conv and modules[node.target].kernel_size == (3, 3)) and "relu" not in str(node.target):
            faults.append(f"{node.name} is neither a 3x3 convolution nor a ReLU")
        if list(node.all_input_nodes) != [previous] or len(node.users) != 1:
            faults.append(f"{node.name} does not have exactly one input and one user")
        previous = node
    return faults


@cache
def operators_per_block(name: str) -> set[int]:
    """Numbers of convolutions on the main path of the blocks of a deploy form (section 3.1)."""
    module = paper_network(name, "deploy")
    if require_model(name).family == "RepVGG":
        blocks = [child for child in module.modules() if type(child).__name__ == "RepVGGBlock"]
    else:
        blocks = [child for child in module.modules() if isinstance(child, BasicBlock | Bottleneck)]
    return {
        sum(isinstance(part, nn.Conv2d) for path, part in block.named_modules() if "downsample" not in path)
        for block in blocks
    }


@cache
def live_feature_maps(kind: str) -> list[int]:
    """Feature maps alive after each operator of a size-keeping piece of network, in units of its input (Figure 3).

    `residual` is the basic block of ResNet-18/34; `plain` is as many RepVGG layers in deploy form. A tensor is alive
    from the operator that makes it until its last use; the first number is the input alone.
    """
    with torch.device("meta"):
        if kind == "residual":
            module: nn.Module = BasicBlock(64, 64)
        else:
            module = nn.Sequential(*list(paper_network("RepVGG-A1", "deploy").get_submodule("stage2").children())[1:3])
    nodes = [node for node in fx.symbolic_trace(module).graph.nodes if node.op != "get_attr"]
    order = {node: number for number, node in enumerate(nodes)}
    last_use = {node: max((order[user] for user in node.users), default=order[node]) for node in nodes}
    return [
        sum(order[node] <= moment < last_use[node] for node in nodes[: moment + 1]) for moment in range(len(nodes) - 1)
    ]


@dataclass(frozen=True)
class StageShare:
    """What the last stage costs: its 3x3 layers, its share of the FLOPs, and its parameters over those of stage 4."""

    layers: int
    flops_share: float
    params_to_stage4: float


def last_stage(name: str) -> StageShare:
    """The cost of stage 5 of a RepVGG in deploy form (section 3.4: a larger b costs little)."""
    layers = layers_of(name, "deploy")
    last = [layer for layer in layers if layer.name.startswith("stage4")]
    fourth = [layer for layer in layers if layer.name.startswith("stage3")]
    total = sum(layer.flops for layer in layers)
    return StageShare(
        len(last),
        sum(layer.flops for layer in last) / total,
        sum(layer.params for layer in last) / sum(layer.params for layer in fourth),
    )


def dense_winograd_layers(name: str) -> int:
    """Stride-1 3x3 convolutions with one group, the layers that section 4.1 counts as accelerated."""
    return sum(layer.winograd_shape and layer.groups == 1 for layer in layers_of(name, "deploy"))


def winograd_multiplications() -> tuple[int, int]:
    """Multiplications of a 2x2 output tile by F(2x2, 3x3) and directly (section 2.4).

    Computes one tile of integers both ways. Raises AssertionError if the results differ.
    """
    data_transform = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    # The filter transform of Lavin and Gray (2016), times 2 on each side so that integers suffice.
    filter_transform = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
    output_transform = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    generator = np.random.default_rng(0)
    tile, kernel = generator.integers(-9, 10, (4, 4)), generator.integers(-9, 10, (3, 3))
    products = (filter_transform @ kernel @ filter_transform.T) * (data_transform @ tile @ data_transform.T)
    by_winograd = output_transform @ products @ output_transform.T // 4
    windows = np.lib.stride_tricks.sliding_window_view(tile, (3, 3))
    directly = (windows * kernel).sum(axis=(2, 3))
    assert np.array_equal(by_winograd, directly)
    return products.size, windows.size


@dataclass(frozen=True)
class ConversionErrors:
    """How far the two forms are apart on one input: in float64 and float32, and whether the best class is the same."""

    float64_max_relative: float
    float32_max_relative: float
    float32_squared_sum: float
    same_top1: bool

    @property
    def certified(self) -> bool:
        """Whether float64 leaves no more than a certificate allows."""
        from repvgg_companion.reparameterization.agreement import MAX_FLOAT64_RELATIVE_ERROR

        return self.float64_max_relative <= MAX_FLOAT64_RELATIVE_ERROR


@cache
def conversion_errors(name: str = "RepVGG-A0", *, width: float = 1.0, input_px: int | None = None) -> ConversionErrors:
    """Compare both forms of a network with random weights and batch-norm statistics on one random image (section 3.3).

    Relative errors are the largest difference of the logits over the largest logit. By default at the paper's width and
    input size; for segmentation the same class is asked for at every pixel.
    """
    from repvgg_companion.reparameterization.convert import convert

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build = partial(build_model, name, num_classes=require_model(name).num_classes, width=width)
        train = build().eval()
        for module in train.modules():
            if isinstance(module, nn.BatchNorm2d):
                mean, variance = module.get_buffer("running_mean"), module.get_buffer("running_var")
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
                nn.init.normal_(mean, 0, 0.1)
                nn.init.uniform_(variance, 0.5, 1.5)
        px = input_px or require_model(name).input_px
        images = torch.randn(1, 3, px, px)
    outputs = {}
    for dtype in (torch.float64, torch.float32):
        deploy = build(form="deploy").eval().to(dtype)
        deploy.load_state_dict(convert(train, train.state_dict(), dtype=dtype))
        with torch.inference_mode():
            outputs[dtype] = train.to(dtype)(images.to(dtype)), deploy(images.to(dtype))
        train.to(torch.float32)
    (exact, exact_deploy), (single, single_deploy) = outputs[torch.float64], outputs[torch.float32]
    return ConversionErrors(
        float((exact - exact_deploy).abs().max() / exact.abs().max()),
        float((single - single_deploy).abs().max() / single.abs().max()),
        float((single - single_deploy).square().sum()),
        bool((single.argmax(1) == single_deploy.argmax(1)).all()),
    )
