"""The ResNet and ResNeXt baselines, with the stride where the paper's counts need it.

torchvision's bottleneck has its stride on the 3x3 convolution; the paper's ResNets have it on the first 1x1
convolution (3.86, 7.57 and 11.28 B FLOPs). Keys are torchvision's.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from repvgg_companion.models.blocks import RepVGGBlock
from repvgg_companion.models.names import ModelSpec, scaled_width


def _conv(  # noqa: PLR0913  # as torch's own convolution
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; [n, in, h, w] to [n, width, h/stride, w/stride]."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.bn2(self.conv2(features))
        features += images if self.downsample is None else self.downsample(images)
        return self.relu(features)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; output width is four times `width`.

    `stride_on_3x3` is for ResNeXt (32x4d), not for the original ResNet. With `repvgg` a RepVGG block, in deploy form
    with `deploy`, replaces the 3x3 convolution with its batch norm and ReLU (section 4.2).
    """

    expansion = 4

    def __init__(  # noqa: PLR0913  # by name, as in torch's own layers
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        inner: int | None = None,
        dilation: int = 1,
        stride_on_3x3: bool = False,
        repvgg: bool = False,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        inner = inner or width
        strides = (1, stride) if stride_on_3x3 else (stride, 1)
        self.conv1 = _conv(in_channels, inner, 1, strides[0])
        self.bn1 = nn.BatchNorm2d(inner)
        self.repvgg = repvgg
        if repvgg:
            self.conv2: nn.Module = RepVGGBlock(
                inner, inner, stride=strides[1], groups=groups, dilation=dilation, deploy=deploy
            )
        else:
            self.conv2 = _conv(inner, inner, 3, strides[1], groups, dilation)
            self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv2(self.relu(self.bn1(self.conv1(images))))
        if not self.repvgg:
            features = self.relu(self.bn2(features))
        features = self.bn3(self.conv3(features))
        features += images if self.downsample is None else self.downsample(images)
        return self.relu(features)


class ResNet(nn.Module):
    """7x7 convolution, max pooling, four stages of blocks, global average pooling and one fully connected layer.

    `widths` are the block widths of the stages (64, 128, 256, 512 in full). `groups` and `inner_widths` are for
    ResNeXt. `strides` and `dilations` per stage are for segmentation. [n, 3, px, px] float to [n, num_classes];
    to the pooled features if `num_classes` is 0.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(  # noqa: PLR0913  # by name, as in torch's own layers
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        stem_width: int = 64,
        num_classes: int = 1000,
        inner_widths: Sequence[int] | None = None,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        **options: Any,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem_width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = stem_width
        for stage, depth in enumerate(layers):
            width, out_channels = widths[stage], widths[stage] * block.expansion
            extra = dict(options)
            if inner_widths is not None:
                extra["inner"] = inner_widths[stage]
            if dilations[stage] != 1:
                extra["dilation"] = dilations[stage]
            blocks = []
            for index in range(depth):
                stride = strides[stage] if index == 0 else 1
                downsample = None
                if stride != 1 or channels != out_channels:
                    downsample = nn.Sequential(_conv(channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
                blocks.append(block(channels, width, stride=stride, downsample=downsample, **extra))
                channels = out_channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # the initial values of torchvision's ResNets
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def last_two_stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of the last two stages, each [n, channels, h, w]."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        layer3 = self.layer3(self.layer2(self.layer1(stem)))
        return layer3, self.layer4(layer3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.last_two_stages(images)[1].mean((2, 3)))


def build_resnet(spec: ModelSpec, num_classes: int, width: float, deploy: bool, **options: Any) -> ResNet:
    """The ResNet or ResNeXt of `spec`, conv-BN pairs not yet folded; `options` go to `ResNet` (strides, dilations)."""
    widths = tuple(scaled_width(channels, width) for channels in (64, 128, 256, 512))
    if spec.block == "basic":
        return ResNet(BasicBlock, spec.layers, widths, stem_width=widths[0], num_classes=num_classes, **options)
    if spec.block == "bottleneck-repvgg":
        options |= {"repvgg": True, "deploy": deploy}
    if spec.family == "ResNeXt":
        # The group width stays: a narrower ResNeXt has fewer groups of the same width.
        inner = tuple(scaled_width(spec.groups * spec.group_width * 2**stage, width) for stage in range(4))
        groups = max(1, inner[0] // spec.group_width)
        inner = tuple(-(-channels // groups) * groups for channels in inner)
        options |= {"stride_on_3x3": True, "groups": groups, "inner_widths": inner}
    return ResNet(Bottleneck, spec.layers, widths, stem_width=widths[0], num_classes=num_classes, **options)
