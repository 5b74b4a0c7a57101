"""The baselines VGG-16, RegNetX and EfficientNet as torchvision has them, with a width factor."""

import torch
from torch import nn

from repvgg_companion.models.names import ModelSpec, scaled_width

# Depth, w_0, w_a, w_m and group width of the published networks (RegNet paper; timm `regnet.py`).
_REGNETX = {"RegNetX-3.2GF": (25, 88, 26.31, 2.25, 48), "RegNetX-12GF": (19, 168, 73.36, 2.37, 112)}
# Width multiplier, depth multiplier and dropout (EfficientNet paper; torchvision `efficientnet.py`).
_EFFICIENTNET = {"EfficientNet-B0": (1.0, 1.0, 0.2), "EfficientNet-B3": (1.2, 1.4, 0.3)}
# Expansion, kernel, stride, input and output channels, layers of the seven stages of EfficientNet-B0.
_MBCONV_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def build_baseline(spec: ModelSpec, num_classes: int, width: float) -> nn.Module:
    """The network of `spec` (family VGG, RegNetX or EfficientNet) in train form, with batch norms.

    Float images [n, 3, px, px] to logits [n, num_classes]; keys are torchvision's.
    """
    if spec.family == "VGG":
        return _vgg(num_classes, width)
    builder = {"RegNetX": _regnetx, "EfficientNet": _efficientnet}[spec.family]
    return builder(spec, num_classes, width)


def _vgg(num_classes: int, width: float) -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    depth_and_channels = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
    plan: list[str | int] = []
    for depth, channels in depth_and_channels:
        plan += [scaled_width(channels, width)] * depth + ["M"]
    if width == 1:
        return VGG(make_layers(plan, batch_norm=True), num_classes=num_classes)
    with torch.device("meta"):  # torchvision's head has a fixed width, so it is replaced below
        model = VGG(nn.Sequential(), num_classes=num_classes)
    model.features = make_layers(plan, batch_norm=True)
    inner, dropout = scaled_width(4096, width), 0.5
    model.classifier = nn.Sequential(
        nn.Linear(scaled_width(512, width) * 7 * 7, inner),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(inner, inner),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(inner, num_classes),
    )
    return model


def _regnetx(spec: ModelSpec, num_classes: int, width: float) -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    depth, w_0, w_a, w_m, group_width = _REGNETX[spec.name]
    with torch.device("cpu"):  # the stage plan is computed with tensors, also for a network on "meta"
        plan = BlockParams.from_init_params(depth, w_0, w_a, w_m, group_width)
    if width != 1:
        groups = [channels // each for channels, each in zip(plan.widths, plan.group_widths)]
        plan.widths = [max(1, round(channels * width / n)) * n for channels, n in zip(plan.widths, groups)]
        plan.group_widths = [channels // n for channels, n in zip(plan.widths, groups)]
    return RegNet(plan, num_classes=num_classes, stem_width=scaled_width(32, width))


def _efficientnet(spec: ModelSpec, num_classes: int, width: float) -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    width_multiplier, depth_multiplier, dropout = _EFFICIENTNET[spec.name]
    stages = [
        MBConvConfig(*stage, width_mult=width_multiplier * width, depth_mult=depth_multiplier)
        for stage in _MBCONV_STAGES
    ]
    return EfficientNet(stages, dropout, num_classes=num_classes)
