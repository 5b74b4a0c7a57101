"""RepVGG (section 3.4), and its Residual Reorg of Table 7.

Keys: `stage0`, `stage1.0` to `stage4.0`, `linear`, as in the official `repvgg.py` (the paper's stages 1 to 5).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from repvgg_companion.models.blocks import BATCH_NORM_EPSILON, ConvBatchNorm, RepVGGBlock


def _groups_of(number: int, groups: int) -> int:
    """Groups of a 3x3 layer by its number, counted from 1 over all layers: `groups` in the 3rd, 5th, 7th, ...

    Section 3.4: no two layers with groups follow each other.
    """
    return groups if number >= 3 and number % 2 == 1 else 1


class RepVGG(nn.Module):
    """Five stages of RepVGG blocks, global average pooling and one fully connected layer (Table 2).

    `layers` and `widths` hold 3x3 layers and output channels per stage. `groups` is the g of layers 3, 5, 7, ...
    counted from 1 over all layers. `strides` and `dilations` (one per 3x3 layer) are for segmentation; by default the
    first layer of each stage has stride 2. [n, 3, px, px] float to logits [n, num_classes], any px; to the pooled
    features if `num_classes` is 0.
    """

    stage0: nn.Module
    stage1: nn.Module
    stage2: nn.Module
    stage3: nn.Module
    stage4: nn.Module

    def __init__(  # noqa: PLR0913  # by name, as in torch's own layers
        self,
        layers: Sequence[int],
        widths: Sequence[int],
        *,
        num_classes: int = 1000,
        groups: int = 1,
        squeeze_excitation: bool = False,
        block: str = "repvgg",
        deploy: bool = False,
        strides: Sequence[int] = (2, 2, 2, 2, 2),
        dilations: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        channels, number = 3, 0
        for stage, (depth, width) in enumerate(zip(layers, widths, strict=True)):
            blocks = []
            for index in range(depth):
                number += 1
                blocks.append(
                    RepVGGBlock(
                        channels,
                        width,
                        stride=strides[stage] if index == 0 else 1,
                        groups=_groups_of(number, groups),
                        dilation=dilations[number - 1] if dilations else 1,
                        squeeze_excitation=squeeze_excitation,
                        block=block,
                        deploy=deploy,
                    )
                )
                channels = width
            self.add_module(f"stage{stage}", blocks[0] if stage == 0 else nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def last_two_stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of the paper's stages 4 and 5, each [n, channels, h, w]."""
        stage4 = self.stage3(self.stage2(self.stage1(self.stage0(images))))
        return stage4, self.stage4(stage4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.last_two_stages(images)[1].mean((2, 3)))


class ResidualBlock(nn.Module):
    """Two 3x3 layers with a shortcut as in ResNet-18/34: identity, or a 1x1 convolution if the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, groups: Sequence[int] = (1, 1)) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False, groups=groups[0])
        second = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False, groups=groups[1])
        self.conv1, self.conv2 = ConvBatchNorm(first), ConvBatchNorm(second)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvBatchNorm(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv2(self.relu(self.conv1(images)))
        return self.relu(features + (images if self.shortcut is None else self.shortcut(images)))


class ResidualReorg(nn.Module):
    """The 3x3 layers of a RepVGG in residual blocks of two (Table 7); input and output as `RepVGG`.

    One layer in the first and in the last stage, half as many blocks as layers in stages 2 to 4.
    """

    stage1: nn.Module
    stage2: nn.Module
    stage3: nn.Module

    def __init__(
        self, layers: Sequence[int], widths: Sequence[int], *, num_classes: int = 1000, groups: int = 1
    ) -> None:
        super().__init__()

        def single(in_channels: int, out_channels: int) -> nn.Sequential:
            conv = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
            norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPSILON)
            return nn.Sequential(conv, norm, nn.ReLU(inplace=True))

        self.stage0 = single(3, widths[0])
        channels, number = widths[0], 1
        for stage in (1, 2, 3):
            blocks = []
            for index in range(layers[stage] // 2):
                pair = (_groups_of(number + 1, groups), _groups_of(number + 2, groups))
                blocks.append(ResidualBlock(channels, widths[stage], stride=1 if index else 2, groups=pair))
                channels, number = widths[stage], number + 2
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
        self.stage4 = single(channels, widths[4])
        self.linear = nn.Linear(widths[4], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage4(self.stage3(self.stage2(self.stage1(self.stage0(images)))))
        return self.linear(features.mean((2, 3)))
