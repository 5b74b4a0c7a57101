"""PSPNet for the segmentation of Table 8, with dilated backbones as in the paper.

Pyramid pooling and heads follow the official PSPNet: bins 1, 2, 3 and 6, each reduced to a quarter of the channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from repvgg_companion.models.blocks import ConvBatchNorm
from repvgg_companion.models.names import ModelSpec, require_model, scaled_width, stage_widths
from repvgg_companion.models.repvgg import RepVGG
from repvgg_companion.models.resnet import ResNet, build_resnet

_BINS = (1, 2, 3, 6)


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(ConvBatchNorm(conv), nn.ReLU(inplace=True))


class PyramidPooling(nn.Module):
    """[n, c, h, w] to [n, 2c, h, w]: the input beside its averages over 1, 2 x 2, 3 x 3 and 6 x 6 regions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bins = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _conv_norm_relu(channels, channels // len(_BINS), 1))
            for side in _BINS
        )

    def forward(self, features: Tensor) -> Tensor:
        size = features.shape[2:]
        pooled = [
            functional.interpolate(bin_(features), size=size, mode="bilinear", align_corners=True) for bin_ in self.bins
        ]
        return torch.cat([features, *pooled], dim=1)


class PSPNet(nn.Module):
    """Backbone, pyramid pooling and a 3x3 head; float images [n, 3, px, px] to logits [n, num_classes, px, px].

    In train() mode the result is (logits, auxiliary logits), the latter from the second to last stage; the official
    PSPNet gives their loss the weight 0.4. The deploy form has no auxiliary head.
    """

    def __init__(  # noqa: PLR0913  # by name, as in torch's own layers
        self,
        backbone: RepVGG | ResNet,
        channels: int,
        auxiliary_channels: int,
        *,
        num_classes: int,
        head_width: int,
        auxiliary: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.pyramid = PyramidPooling(channels)
        self.head = nn.Sequential(
            _conv_norm_relu(2 * channels, head_width, 3), nn.Dropout2d(0.1), nn.Conv2d(head_width, num_classes, 1)
        )
        self.auxiliary = None
        if auxiliary:
            inner = head_width // 2
            self.auxiliary = nn.Sequential(
                _conv_norm_relu(auxiliary_channels, inner, 3), nn.Dropout2d(0.1), nn.Conv2d(inner, num_classes, 1)
            )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = images.shape[2:]
        stage4, stage5 = self.backbone.last_two_stages(images)
        logits = self.head(self.pyramid(stage5))
        logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=True)
        if not self.training or self.auxiliary is None:
            return logits
        auxiliary = functional.interpolate(self.auxiliary(stage4), size=size, mode="bilinear", align_corners=True)
        return logits, auxiliary


def dilations_per_layer(layers: tuple[int, ...], dilated: str) -> tuple[int, ...]:
    """Dilation of each 3x3 layer of a RepVGG backbone: 2 in stage 4 and 4 in stage 5 (the authors' example code).

    `dilated` is `last-2-stages` (all layers of both) or `last-5` (the last 4 of stage 4 and the one of stage 5).
    """
    stage4 = layers[3] if dilated == "last-2-stages" else 4
    return (1,) * (sum(layers[:4]) - stage4) + (2,) * stage4 + (4,) * layers[4]


def build_pspnet(spec: ModelSpec, num_classes: int, width: float, deploy: bool) -> PSPNet:
    """The PSPNet of `spec` with output stride 8, conv-BN pairs outside RepVGG blocks not yet folded."""
    base = require_model(spec.backbone)
    if base.family == "RepVGG":
        widths = stage_widths(base.a, base.b, width)
        backbone: RepVGG | ResNet = RepVGG(
            base.layers,
            widths,
            num_classes=0,
            groups=base.groups,
            deploy=deploy,
            strides=(2, 2, 2, 1, 1),
            dilations=dilations_per_layer(base.layers, spec.dilated),
        )
        channels = widths[4], widths[3]
    else:
        backbone = build_resnet(base, 0, width, deploy, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
        channels = scaled_width(512, width) * 4, scaled_width(256, width) * 4
    return PSPNet(
        backbone, *channels, num_classes=num_classes, head_width=scaled_width(512, width), auxiliary=not deploy
    )
