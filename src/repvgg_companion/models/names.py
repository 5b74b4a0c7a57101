"""The models by name, each with its structure as the paper gives it (`ModelSpec`). Needs no torch.

A name is `BASE` or `BASE_VARIATION`. Variations of a RepVGG are the rows of Tables 6 and 7; each is listed for
RepVGG-B0 (the paper's base) and accepted for every RepVGG without squeeze-and-excitation.

A RepVGG of your own is named by its structure: `RepVGG-1.4.6.16.1-a1-b3-g2` has those layers per stage, a = 1, b = 3
and groups of 2 (`-g` may be left out). `-s1.1.2.2.2` at the end of any RepVGG's name sets the strides of its stages,
here as is usual for images of 32 px. So a weights file always says which network it holds.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from repvgg_companion.errors import CompanionError, nearest
from repvgg_companion.identity import split_model_name

_LAYERS_A = (1, 2, 4, 14, 1)
_LAYERS_B = (1, 4, 6, 16, 1)
_LAYERS_D = (1, 8, 14, 24, 1)


@dataclass(frozen=True)
class ModelSpec:
    """What distinguishes one network of the paper from the others.

    `layers` are 3x3 layers (RepVGG) or blocks (ResNet) per stage, `strides` those of the first layer of each stage of
    a RepVGG, `a` and `b` the width multipliers of Table 3, `groups` the g of the groupwise layers, `block` the key of
    `models.blocks.BLOCKS`. `input_px` is the side in pixels of the paper's counts, speeds and training, `test_px` the
    side at which the accuracy is quoted. A network that is not `convertible` has no deploy form;
    `reason_not_convertible` says why. `decision` is what we chose where the paper leaves something open.
    """

    name: str
    family: str
    input_px: int = 224
    test_px: int = 224
    num_classes: int = 1000
    layers: tuple[int, ...] = ()
    strides: tuple[int, ...] = (2, 2, 2, 2, 2)
    a: float = 1.0
    b: float = 1.0
    groups: int = 1
    group_width: int = 64
    squeeze_excitation: bool = False
    block: str = "repvgg"
    backbone: str = ""
    dilated: str = ""
    convertible: bool = True
    reason_not_convertible: str = ""
    decision: str = ""

    @property
    def base_model(self) -> str:
        """The name before the underscore."""
        return split_model_name(self.name)[0]

    @property
    def variation(self) -> str:
        """The name after the underscore; empty for a plain name."""
        return split_model_name(self.name)[1]


def _repvgg(name: str, layers: tuple[int, ...], a: float, b: float, groups: int = 1, **more: Any) -> ModelSpec:
    return ModelSpec(f"RepVGG-{name}", "RepVGG", layers=layers, a=a, b=b, groups=groups, **more)


_REPVGG = [
    _repvgg("A0", _LAYERS_A, 0.75, 2.5),
    _repvgg("A1", _LAYERS_A, 1, 2.5),
    _repvgg("A2", _LAYERS_A, 1.5, 2.75),
    _repvgg("B0", _LAYERS_B, 1, 2.5),
    _repvgg("B1", _LAYERS_B, 2, 4),
    _repvgg("B1g2", _LAYERS_B, 2, 4, 2),
    _repvgg("B1g4", _LAYERS_B, 2, 4, 4),
    _repvgg("B2", _LAYERS_B, 2.5, 5),
    _repvgg("B2g2", _LAYERS_B, 2.5, 5, 2),
    _repvgg("B2g4", _LAYERS_B, 2.5, 5, 4),
    _repvgg("B3", _LAYERS_B, 3, 5),
    _repvgg("B3g2", _LAYERS_B, 3, 5, 2),
    _repvgg("B3g4", _LAYERS_B, 3, 5, 4),
    # Not in the paper: published later in the official repository; trained at 224 px, accuracy quoted at 320 px.
    _repvgg("D2se", _LAYERS_D, 2.5, 5, squeeze_excitation=True, test_px=320),
]

_WHERE_IDENTITY_EXISTS = (
    "The paper does not say what the first layer of each stage does, which has stride 2 and no identity; here it is an "
    "ordinary 3x3 convolution with batch norm, so the identity kernel is added exactly where RepVGG has the branch."
)

# Rows of Tables 6 and 7: variation -> what differs from the full block.
VARIATIONS: dict[str, dict] = {
    "plain": {"block": "plain"},
    "identity-only": {"block": "identity-only"},
    "1x1-only": {"block": "1x1-only"},
    "identity-without-bn": {"block": "identity-without-bn"},
    "post-addition-bn": {"block": "post-addition-bn"},
    "relu-in-branch": {
        "block": "relu-in-branch",
        "convertible": False,
        "reason_not_convertible": "the ReLU inside each branch is not linear, so the branches cannot be added into one "
        "kernel",
        "decision": "The paper does not say whether the ReLU after the sum stays. Every branch ends in a ReLU, so the "
        "sum is never negative and an outer ReLU would change nothing; it is left out.",
    },
    "diracnet": {
        "block": "diracnet",
        "decision": _WHERE_IDENTITY_EXISTS
        + " The kernel is diag(a) I + diag(b) W/|W| with one a (at first 1) and b (at first 0.1) per filter, as in the "
        "final code of the DiracNet authors, and a batch norm follows the convolution as in theirs.",
    },
    "trivial-reparam": {"block": "trivial-reparam", "decision": _WHERE_IDENTITY_EXISTS},
    "acb": {
        "block": "acb",
        "decision": "The asymmetric convolution block alone replaces the 3x3 convolution: no identity and no 1x1 "
        "branch is kept, which the paper implies but does not say.",
    },
    "residual-reorg": {
        "block": "residual-reorg",
        "convertible": False,
        "reason_not_convertible": "its shortcuts pass over two layers with a ReLU between them, so they stay at "
        "inference and there is no equal plain network",
        "decision": "Shortcuts as in ResNet-18/34: a 1x1 convolution of stride 2 with batch norm in the first block of "
        "stages 2 to 4, the identity elsewhere.",
    },
}


def _vary(base: ModelSpec, variation: str) -> ModelSpec:
    return replace(base, name=f"{base.name}_{variation}", **VARIATIONS[variation])


_BY_NAME = {spec.name: spec for spec in _REPVGG}
_ABLATIONS = [_vary(_BY_NAME["RepVGG-B0"], variation) for variation in VARIATIONS]

_BASELINES = [
    ModelSpec("ResNet-18", "ResNet", layers=(2, 2, 2, 2), block="basic"),
    ModelSpec("ResNet-34", "ResNet", layers=(3, 4, 6, 3), block="basic"),
    # The original bottleneck has its stride on the first 1x1 convolution; the FLOPs column of Table 4 depends on it.
    ModelSpec("ResNet-50", "ResNet", layers=(3, 4, 6, 3), block="bottleneck"),
    ModelSpec("ResNet-101", "ResNet", layers=(3, 4, 23, 3), block="bottleneck"),
    ModelSpec("ResNet-152", "ResNet", layers=(3, 8, 36, 3), block="bottleneck"),
    ModelSpec("ResNet-50_repvgg-blocks", "ResNet", layers=(3, 4, 6, 3), block="bottleneck-repvgg"),
    # 32x4d with the stride on the 3x3 convolution, as the printed parameters and FLOPs require.
    ModelSpec("ResNeXt-50", "ResNeXt", layers=(3, 4, 6, 3), block="bottleneck", groups=32, group_width=4),
    ModelSpec("ResNeXt-101", "ResNeXt", layers=(3, 4, 23, 3), block="bottleneck", groups=32, group_width=4),
    ModelSpec("VGG-16", "VGG", block="vgg"),
    ModelSpec("RegNetX-3.2GF", "RegNetX", block="regnet"),
    ModelSpec("RegNetX-12GF", "RegNetX", block="regnet"),
    ModelSpec("EfficientNet-B0", "EfficientNet", block="mbconv"),
    ModelSpec("EfficientNet-B3", "EfficientNet", block="mbconv", input_px=300, test_px=300),
]


def _pspnet(backbone: str, dilated: str) -> ModelSpec:
    name = f"PSPNet-{backbone}" + ("_fast" if dilated == "last-5" else "")
    decision = (
        "The paper does not print the strides of the fast version. Here the first layers of stages 4 and 5 have stride "
        "1 in both versions, so that both give the same map of an eighth of the input."
        if backbone.startswith("RepVGG")
        else "The backbone is the ResNet of Table 4, with its stem and the place of its stride; the public PSPNet code "
        "has three 3x3 convolutions instead of the 7x7 one, which the paper does not mention."
    )
    return ModelSpec(
        name,
        "PSPNet",
        input_px=713,
        test_px=713,
        num_classes=19,
        block="pspnet",
        backbone=backbone,
        dilated=dilated,
        decision=decision,
    )


_SEGMENTATION = [
    _pspnet("RepVGG-B1g2", "last-2-stages"),
    _pspnet("RepVGG-B1g2", "last-5"),
    _pspnet("RepVGG-B2", "last-2-stages"),
    _pspnet("RepVGG-B2", "last-5"),
    _pspnet("ResNet-50", "last-2-stages"),
    _pspnet("ResNet-101", "last-2-stages"),
]

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in [*_REPVGG, *_ABLATIONS, *_BASELINES, *_SEGMENTATION]}
REPVGG_MODELS: tuple[str, ...] = tuple(spec.name for spec in _REPVGG)


def require_model(name: str) -> ModelSpec:
    """The structure of `name`; raises CompanionError with the nearest names if there is no such model."""
    if name in MODELS:
        return MODELS[name]
    base_model, variation = split_model_name(name)
    base = _repvgg_of(base_model)
    if base is not None and not variation:
        return base
    if base is not None and variation in VARIATIONS:
        if base.squeeze_excitation:
            raise CompanionError(
                f"model {name!r}: the ablations are defined for networks without squeeze-and-excitation; "
                f"use RepVGG-B0_{variation}"
            )
        return _vary(base, variation)
    candidates = [*MODELS, *(f"{base_model}_{known}" for known in VARIATIONS if base is not None)]
    near = nearest(name, candidates, count=3) or candidates[:3]
    own = "a RepVGG of your own is named by its layers, a and b, like RepVGG-1.4.6.16.1-a1-b3"
    if base is None and _BY_LAYERS.match(base_model):
        raise CompanionError(f"there is no model {name!r}{_not_five(base_model)}; {own}")
    raise CompanionError(f"there is no model {name!r}; the nearest names are {', '.join(near)}; {own}")


_BY_LAYERS = re.compile(r"RepVGG-(\d|.+-s\d)")
"""How the name of an own RepVGG begins, whatever is wrong with the rest."""


def _not_five(base_model: str) -> str:
    """Words on layers or strides in the name of an own RepVGG that are not those of five stages; empty without any."""
    for what, pattern in (("layers", r"RepVGG-([\d.]+)-a.*"), ("strides", r"RepVGG-.*-s([\d.]+)")):
        found = re.fullmatch(pattern, base_model)
        if found is not None and len(found[1].split(".")) != len(ModelSpec.strides):
            return f"; it has five stages, and {found[1]} are not the {what} of five"
    return ""


_OWN = re.compile(r"RepVGG-(?P<layers>\d+(\.\d+){4})-a(?P<a>\d+(\.\d+)?)-b(?P<b>\d+(\.\d+)?)(-g(?P<groups>\d+))?")
_WITH_STRIDES = re.compile(r"(?P<name>RepVGG-.+)-s(?P<strides>\d+(\.\d+){4})")


def _repvgg_of(base_model: str) -> ModelSpec | None:
    """The RepVGG that a name without variation means, by the paper's name or by its structure; None for other names."""
    with_strides = _WITH_STRIDES.fullmatch(base_model)
    if with_strides is not None:
        base, strides = _repvgg_of(with_strides["name"]), _numbers(with_strides["strides"])
        if base is not None and not set(strides) <= {1, 2}:
            raise CompanionError(f"model {base_model!r}: the stride of a stage is 1 or 2")
        return None if base is None else replace(base, name=base_model, strides=strides)
    own = _OWN.fullmatch(base_model)
    if own is None:
        return _BY_NAME.get(base_model)
    layers, a, b, groups = _numbers(own["layers"]), float(own["a"]), float(own["b"]), int(own["groups"] or 1)
    if 0 in layers or groups == 0:
        raise CompanionError(f"model {base_model!r}: every stage has at least one layer, and groups are at least 1")
    if min(stage_widths(a, b)) < 1 or any(channels % groups for channels in stage_widths(a, b)):
        raise CompanionError(
            f"model {base_model!r}: its stages have {', '.join(map(str, stage_widths(a, b)))} channels, and each must "
            f"be a positive multiple of its {groups} groups; change a, b or the groups"
        )
    return ModelSpec(base_model, "RepVGG", layers=layers, a=a, b=b, groups=groups)


def without_strides(name: str) -> str:
    """`RepVGG-B0_diracnet` for RepVGG-B0-s2.2.2.1.1_diracnet; any other name as it is."""
    base_model, _ = split_model_name(name)
    found = _WITH_STRIDES.fullmatch(base_model)
    return name if found is None else name.replace(base_model, found["name"], 1)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def require_convertible(name: str) -> ModelSpec:
    """Like `require_model`; also raises CompanionError with the reason if the network has no deploy form."""
    spec = require_model(name)
    if not spec.convertible:
        raise CompanionError(f"{name} has no deploy form: {spec.reason_not_convertible}; use its train form")
    return spec


def scaled_width(channels: int, width: float) -> int:
    """`channels` times `width`, unchanged for width 1, else the nearest multiple of 8 and at least 8.

    A multiple of 8 keeps the layers with 2 and 4 groups and the 1/16 of squeeze-and-excitation possible.
    Raises CompanionError if `width` is not a positive number.
    """
    if not 0 < width < math.inf:
        raise CompanionError(f"the width factor is {width!r}; it must be a number above 0, and 1 is the paper's width")
    return channels if width == 1 else max(8, int(channels * width / 8 + 0.5) * 8)


def stage_widths(a: float, b: float, width: float = 1.0) -> tuple[int, ...]:
    """Output channels of the five stages: min(64, 64a), 64a, 128a, 256a, 512b (Table 2), times the width factor."""
    full = (min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * b))
    return tuple(scaled_width(channels, width) for channels in full)


def width_of(spec: ModelSpec, widths: tuple[int, ...]) -> float:
    """A width factor, as simple as possible, at which the stages of a RepVGG have these channels; 1 if none gives them.

    Several factors give the same network, because channels are multiples of 8: the one of smallest denominator is
    taken.
    """
    for parts in (1, 2, 4, 8, 16, 10, 20, 32, 100, 1000):
        near = round(parts * widths[-1] / stage_widths(spec.a, spec.b)[-1])
        for number in (near, near - 1, near + 1):
            if number > 0 and stage_widths(spec.a, spec.b, number / parts) == widths:
                return number / parts
    return 1.0
