"""The second evaluation of what is counted: structure by recorded operations and by arithmetic on Tables 2 and 3."""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from second_published import Paper, counted
from second_reading import Answer, Found, Quantity, Row, Term, judged, row_of, terms_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from repvgg_companion.models.build import build_model
from repvgg_companion.models.resnet import BasicBlock

OUTPUT_PX = (112, 56, 28, 14, 7)


class Recorder(TorchDispatchMode):
    """Writes down each operation with its input tensors and its output."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, list[torch.Tensor], torch.Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple) else result
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        self.operations.append((function._schema.name, tensors, first))
        return result


def recorded(module: nn.Module, shape: tuple[int, ...]) -> tuple[torch.Tensor, list]:
    """The input and all operations of one pass on the meta device, so that nothing is computed."""
    with torch.device("meta"), torch.no_grad(), Recorder() as recorder:
        images = torch.empty(shape)
        recorder.operations.clear()
        module.eval()(images)
    return images, recorder.operations


def on_meta(name: str, form: str = "deploy") -> nn.Module:
    with torch.device("meta"):
        return build_model(name, form=form)


def has_plain_body(name: str) -> bool:
    """Until the pooling, each operation is a 3x3 convolution or a ReLU whose only input is the operation before."""
    previous, operations = recorded(on_meta(name), (1, 3, 224, 224))
    for operation, tensors, output in operations:
        if "mean" in operation:
            return True
        is_conv = operation == "aten::convolution" and tuple(tensors[1].shape[2:]) == (3, 3)
        if not (is_conv or operation.startswith("aten::relu")) or tensors[0] is not previous:
            return False
        previous = output
    return False


def most_alive(module: nn.Module, channels: int = 64) -> int:
    """The most activations alive between two operations; a tensor lives until its last use."""
    images, operations = recorded(module, (1, channels, 8, 8))
    last_use = {id(tensor): place for place, (_, tensors, _) in enumerate(operations) for tensor in tensors}
    activations = {id(images)} | {id(output) for *_, output in operations}
    most = 1
    for place in range(len(operations) - 1):
        made = {id(images)} | {id(output) for *_, output in operations[: place + 1]}
        most = max(most, sum(last_use.get(one, -1) > place for one in made & activations))
    return most


@cache
def layers(paper: Paper, model: str) -> list[tuple[int, int, int, int, int]]:
    """Stage, input and output channels, groups and output pixels of the 3x3 layers of a RepVGG, by Tables 2 and 3."""
    (row,) = [row for row in paper.table("table3_variants.csv") if row["model"] == model]
    groups = int(match[1]) if (match := re.search(r"g(\d)$", model)) else 1
    grouped = {int(number) for number in row["groupwise_layer_numbers_1_based_if_g2_or_g4"].split(";")}
    found, channels = [], 3
    for stage in range(1, 6):
        for _ in range(int(row[f"layers_stage{stage}"])):
            width = int(row[f"width_stage{stage}"])
            own = groups if len(found) + 1 in grouped else 1
            found.append((stage, channels, width, own, OUTPUT_PX[stage - 1]))
            channels = width
    return found


def last_stage_shares(paper: Paper, model: str) -> tuple[int, float, float]:
    """Layers of stage 5, its share of the multiply-adds, and its parameters over those of stage 4."""
    flops: dict[int, float] = {}
    params: dict[int, float] = {}
    for stage, inputs, outputs, groups, px in layers(paper, model):
        weights = 9 * inputs * outputs // groups
        flops[stage] = flops.get(stage, 0) + weights * px * px
        params[stage] = params.get(stage, 0) + weights + outputs
    total = sum(flops.values()) + 1000 * layers(paper, model)[-1][2]
    return sum(one[0] == 5 for one in layers(paper, model)), flops[5] / total, params[5] / params[4]


def convolutions_per_block(name: str) -> set[int]:
    """Convolutions on the main path of each residual block."""
    blocks: dict[str, int] = {}
    for path, module in on_meta(name).named_modules():
        match = re.match(r"(layer\d\.\d+)\.(?!downsample)", path)
        if match and isinstance(module, nn.Conv2d):
            blocks[match[1]] = blocks.get(match[1], 0) + 1
    return set(blocks.values())


def winograd_multiplications() -> str:
    """One output pair of F(2, 3) takes 4 multiplications instead of 6; nested in two dimensions 16 instead of 36."""
    d, g = [Fraction(one) for one in (3, -7, 5, 11)], [Fraction(one) for one in (2, -1, 4)]
    products = [(d[0] - d[2]) * g[0], (d[1] + d[2]) * (g[0] + g[1] + g[2]) / 2,
                (d[2] - d[1]) * (g[0] - g[1] + g[2]) / 2, (d[1] - d[3]) * g[2]]  # fmt: skip
    short = [products[0] + products[1] + products[2], products[1] - products[2] - products[3]]
    assert short == [sum(d[place + tap] * g[tap] for tap in range(3)) for place in range(2)]
    return f"{len(products) ** 2}/{(2 * 3) ** 2}"


def fused(conv: nn.Conv2d | None, norm: nn.BatchNorm2d, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel (3x3) and bias of one branch in eval mode; without a convolution that of the identity."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    if conv is None:
        per_group = norm.num_features // groups
        kernel = torch.zeros(norm.num_features, per_group, 3, 3, dtype=scale.dtype)
        for channel in range(norm.num_features):
            kernel[channel, channel % per_group, 1, 1] = 1
    else:
        kernel = nn.functional.pad(conv.weight, [(3 - conv.kernel_size[0]) // 2] * 4)
    return kernel * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def conversion_agrees() -> bool:
    """RepVGG-A0 with random weights: both forms agree within 1e-10 in float64 and 1e-4 in float32."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        train, deploy = (build_model("RepVGG-A0", form=form).eval().double() for form in ("train", "deploy"))
        for module in train.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_(0, 0.1)
        images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
        parts = dict(deploy.named_modules())
        parts["linear"].load_state_dict(train.linear.state_dict())
        for path, block in train.named_modules():
            if hasattr(block, "rbr_dense"):
                branches = [fused(branch.conv, branch.bn, block.groups) for branch in (block.rbr_dense, block.rbr_1x1)]
                if block.rbr_identity is not None:
                    branches.append(fused(None, block.rbr_identity, block.groups))
                parts[path].rbr_reparam.weight.copy_(sum(kernel for kernel, _ in branches))
                parts[path].rbr_reparam.bias.copy_(sum(bias for _, bias in branches))
        agree = []
        for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            one, other = (network.to(dtype)(images.to(dtype)) for network in (train, deploy))
            agree.append(float((one - other).abs().max() / one.abs().max()) <= bound)
    return all(agree)


def structure(paper: Paper, check: str) -> tuple[bool, str, str]:
    """Whether a structural check holds, its value and what it rests on."""
    variants = [row["model"] for row in paper.table("table3_variants.csv")]
    if check == "plain-inference-body":
        plain = sum(map(has_plain_body, variants))
        value = f"{plain} of {len(variants)} deploy forms are 3x3 convolutions and ReLUs in one line"
        return plain == len(variants), value, "trace of the deploy forms"
    if check == "conversion-keeps-function":
        value = "equal within 1e-10 of the largest output in float64 and 1e-4 in float32"
        return conversion_agrees(), value, "RepVGG-A0 with random weights at 224 px"
    if check == "winograd-f2x2-3x3":
        value = winograd_multiplications()
        return Fraction(value) == Fraction(4, 9), value, "one tile computed both ways"
    if check == "operators-per-block":
        ours = {sum(isinstance(part, nn.Conv2d) for part in on_meta(name).modules()) / len(layers(paper, name))
                for name in variants}  # fmt: skip
        theirs = set().union(*(convolutions_per_block(f"ResNet-{depth}") for depth in (18, 34, 50, 101, 152)))
        value = f"RepVGG {', '.join(f'{one:g}' for one in sorted(ours))}; ResNet {', '.join(map(str, sorted(theirs)))}"
        return (ours, theirs) == ({1.0}, {2, 3}), value, "walk of the deploy forms"
    if check == "residual-block-doubles-memory":
        with torch.device("meta"):
            residual = most_alive(BasicBlock(64, 64))
            plain = most_alive(
                nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
            )
        return (residual, plain) == (2, 1), f"{residual}x vs {plain}x", "liveness in the traced blocks"
    if check == "last-stage-is-cheap":
        shares = [last_stage_shares(paper, name) for name in variants]
        flops, params = max(one[1] for one in shares), max(one[2] for one in shares)
        value = f"at most {100 * flops:.1f} % of the FLOPs and {params:.2f} of the parameters of stage 4"
        return all(one[0] == 1 for one in shares) and flops < 0.1 and params < 1, value, "walk of the deploy forms"
    assert check == "efficientnet-has-no-winograd-conv"
    dense = {
        name: sum(
            isinstance(part, nn.Conv2d) and (part.kernel_size, part.stride, part.groups) == ((3, 3), (1, 1), 1)
            for part in on_meta(name).modules()
        )
        for name in ("EfficientNet-B0", "EfficientNet-B3")
    }
    value = ", ".join(f"{name}: {number}" for name, number in dense.items())
    return not any(dense.values()), value, "walk of the deploy forms"


MEASURED = ("every-baseline-matched", "wino-ranks-speed", "batch-128-saturates", "no-measurement-in-paper")


def exact(quantity: Quantity, paper: Paper) -> Found | None:
    """A count: of a network, of the members of an ensemble, or of the layers with one output size."""
    if quantity.name == "members":
        (row,) = [row for row in paper.table("table3_variants.csv") if row["model"] == quantity.model.split("_")[0]]
        blocks = int(row[f"layers_stage{quantity.words[0].removeprefix('stage')}"])
        # The first layer of a stage has no identity branch; Residual Reorg has blocks of two layers with a shortcut.
        value = 2 ** (blocks // 2) if quantity.model.endswith("residual-reorg") else 2 * 3 ** (blocks - 1)
        return Found(float(value), f"walk of {quantity.model}")
    if quantity.name == "layers":
        assert (quantity.model, quantity.words) == ("ResNet-101", ("14x14",))
        paths = {re.match(r"layer3\.\d+", path)[0] for path, _ in on_meta("ResNet-101").named_modules()
                 if re.match(r"layer3\.\d+", path)}  # fmt: skip
        return Found(3.0 * len(paths), f"walk of {quantity.model}")
    return counted(quantity)


def counted_rows(paper: Paper) -> Iterator[Row]:
    """The rows of the class *counted*."""
    for claim in paper.table("claims"):
        terms = terms_of(claim["condition"])
        row = row_of(claim, [_counted_answer(term, paper) for term in terms], len(terms), evidence_class="counted",
                     source="this companion")  # fmt: skip
        if row:
            yield row


def _counted_answer(term: Term, paper: Paper) -> Answer | None:
    if term.check and term.check not in MEASURED:
        holds, value, evidence = structure(paper, term.check)
        number, inference = ("met", "reproduced") if holds else ("not met", "contradicted")
        return Answer(term.text, number, inference, value, evidence=(evidence,))
    if not term.is_count:
        return None
    found = {quantity: exact(quantity, paper) for quantity in term.quantities}
    values = {quantity: one.value for quantity, one in found.items()}
    value = term.measured(values)
    number = judged(value, value, term.bounds(values))
    inference = "reproduced" if number == "met" else "contradicted"
    return Answer(
        term.text, number, inference, term.shown(values), evidence=tuple(one.evidence for one in found.values())
    )
