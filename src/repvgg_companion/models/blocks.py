"""The layer of a RepVGG, in train form (branches) or deploy form (one 3x3 convolution).

The same class builds the paper's block (section 3.2) and every block of Tables 6 and 7. Submodules have the names of
the official code (`repvgg.py`, `se_block.py`), so released files load unchanged.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from repvgg_companion.errors import CompanionError, did_you_mean, require_count

# The official code uses PyTorch's default; it is not stored in the weights files.
BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class BlockGrammar:
    """The structure of one kind of block: the branches beside the 3x3 convolution, and where its batch norms are.

    `kernel` is how the 3x3 kernel is made from its parameters: `free`, `identity-plus` (I + W), or `dirac`
    (diag(a) I + diag(b) W/|W|). `branch_batch_norm` is False if a single batch norm follows the sum.
    """

    conv_1x1: bool = False
    identity: bool = False
    asymmetric: bool = False
    branch_batch_norm: bool = True
    identity_batch_norm: bool = True
    branch_relu: bool = False
    kernel: str = "free"


BLOCKS: dict[str, BlockGrammar] = {
    "repvgg": BlockGrammar(conv_1x1=True, identity=True),
    "plain": BlockGrammar(),
    "identity-only": BlockGrammar(identity=True),
    "1x1-only": BlockGrammar(conv_1x1=True),
    "identity-without-bn": BlockGrammar(conv_1x1=True, identity=True, identity_batch_norm=False),
    "post-addition-bn": BlockGrammar(conv_1x1=True, identity=True, branch_batch_norm=False, identity_batch_norm=False),
    "relu-in-branch": BlockGrammar(conv_1x1=True, identity=True, branch_relu=True),
    "diracnet": BlockGrammar(kernel="dirac"),
    "trivial-reparam": BlockGrammar(kernel="identity-plus"),
    "acb": BlockGrammar(asymmetric=True),
}


def identity_kernel(weight: Tensor) -> Tensor:
    """The kernel of shape and type of `weight` [O, I/g, 3, 3] that returns its input: ones at [i, i mod I/g, 1, 1]."""
    kernel = torch.zeros_like(weight, requires_grad=False)
    channels = torch.arange(weight.shape[0], device=weight.device)
    kernel[channels, channels % weight.shape[1], weight.shape[2] // 2, weight.shape[3] // 2] = 1
    return kernel


class ConvBatchNorm(nn.Sequential):
    """A convolution without bias and its batch norm, named `conv` and `bn`; without `batch_norm` the conv alone."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(self, conv: nn.Conv2d, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv = conv
        if batch_norm:
            self.bn = nn.BatchNorm2d(conv.out_channels, eps=BATCH_NORM_EPSILON)


class IdentityPlusConv(nn.Conv2d):
    """Trivial re-parameterization (Table 7): a 3x3 convolution whose kernel is I + W."""

    def kernel(self) -> Tensor:
        """The effective kernel [O, I/g, 3, 3]."""
        return self.weight + identity_kernel(self.weight)

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(images, self.kernel(), None, self.stride, self.padding, self.dilation, self.groups)


class DiracConv(IdentityPlusConv):
    """The convolution of DiracNets (section 2.3): kernel diag(a) I + diag(b) W/|W|, W normalised per filter.

    `alpha` and `beta` are a and b, [O], initially 1 and 0.1 as in the final code of the DiracNet authors.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.alpha = nn.Parameter(torch.full((self.out_channels,), 1.0))
        self.beta = nn.Parameter(torch.full((self.out_channels,), 0.1))

    def kernel(self) -> Tensor:
        """The effective kernel [O, I/g, 3, 3]."""
        normalised = functional.normalize(self.weight.flatten(1)).view_as(self.weight)
        column = (-1, 1, 1, 1)
        return self.beta.view(column) * normalised + self.alpha.view(column) * identity_kernel(self.weight)


class SqueezeExcitation(nn.Module):
    """Channel weights from global averages through C/16 channels (`se_block.py`); keys `down.*`, `up.*`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 16)
        self.down = nn.Conv2d(channels, inner, 1)
        self.up = nn.Conv2d(inner, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        weights = functional.relu(self.down(features.mean((2, 3), keepdim=True)))
        return features * torch.sigmoid(self.up(weights))


class RepVGGBlock(nn.Module):
    """One layer: [n, in, h, w] to [n, out, h/stride, w/stride]. The deploy form is `rbr_reparam` and a ReLU.

    The identity branch exists if the stride is 1 and the channels are equal (section 3.2). `dilation` is that of the
    3x3 convolution; the 1x1 and identity branches do not depend on it. Raises CompanionError for an unknown `block`,
    sizes that no convolution can have, and the deploy form of a block with a ReLU in its branches.
    """

    rbr_dense: ConvBatchNorm

    def __init__(  # noqa: PLR0913  # by name, as in torch's own layers
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        squeeze_excitation: bool = False,
        block: str = "repvgg",
        deploy: bool = False,
    ) -> None:
        super().__init__()
        _require_layer(in_channels, out_channels, stride, groups, dilation)
        if not isinstance(block, str) or block not in BLOCKS:
            raise CompanionError(f"there is no block {block!r}; {did_you_mean(str(block), BLOCKS)}")
        grammar = self.grammar = BLOCKS[block]
        self.in_channels, self.out_channels, self.stride, self.groups = in_channels, out_channels, stride, groups
        self.deploy = deploy
        self.se = SqueezeExcitation(out_channels) if squeeze_excitation else None
        shape: dict[str, Any] = {"stride": stride, "padding": dilation, "dilation": dilation, "groups": groups}
        if deploy:
            if grammar.branch_relu:
                raise CompanionError("a block with a ReLU in its branches has no deploy form; use its train form")
            self.rbr_reparam = nn.Conv2d(in_channels, out_channels, 3, **shape)
            return
        keeps_shape = stride == 1 and in_channels == out_channels
        norm = grammar.branch_batch_norm
        self.rbr_identity = None
        if grammar.identity and keeps_shape:
            with_norm = grammar.identity_batch_norm
            self.rbr_identity = nn.BatchNorm2d(in_channels, eps=BATCH_NORM_EPSILON) if with_norm else nn.Identity()
        kind = {"free": nn.Conv2d, "identity-plus": IdentityPlusConv, "dirac": DiracConv}[grammar.kernel]
        dense = (kind if keeps_shape else nn.Conv2d)(in_channels, out_channels, 3, bias=False, **shape)
        self.rbr_dense = ConvBatchNorm(dense, batch_norm=norm)
        if grammar.conv_1x1:
            pointwise = nn.Conv2d(in_channels, out_channels, 1, stride=stride, groups=groups, bias=False)
            self.rbr_1x1 = ConvBatchNorm(pointwise, batch_norm=norm)
        if grammar.asymmetric:
            for name, kernel in (("rbr_1x3", (1, 3)), ("rbr_3x1", (3, 1))):
                padding = tuple(dilation * (side // 2) for side in kernel)
                conv = nn.Conv2d(in_channels, out_channels, kernel, bias=False, **(shape | {"padding": padding}))
                self.add_module(name, ConvBatchNorm(conv, batch_norm=norm))
        if not norm:
            self.bn = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPSILON)

    def branches(self) -> list[tuple[str, nn.Module]]:
        """Name and module of each branch of the train form, the 3x3 convolution first; empty in deploy form."""
        names = ("rbr_dense", "rbr_1x1", "rbr_1x3", "rbr_3x1", "rbr_identity")
        return [(name, branch) for name in names if (branch := getattr(self, name, None)) is not None]

    def forward(self, images: Tensor) -> Tensor:
        if self.deploy:
            features = self.rbr_reparam(images)
        else:
            (_, dense), *others = self.branches()
            features = dense(images)
            if self.grammar.branch_relu:
                features = functional.relu(features)
                for _, branch in others:
                    features = features + functional.relu(branch(images))
                return features if self.se is None else self.se(features)
            for _, branch in others:
                features = features + branch(images)
            if not self.grammar.branch_batch_norm:
                features = self.bn(features)
        if self.se is not None:
            features = self.se(features)
        return functional.relu(features, inplace=True)


def _require_layer(in_channels: int, out_channels: int, stride: int, groups: int, dilation: int) -> None:
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    for name, size in (sizes | {"stride": stride, "groups": groups, "dilation": dilation}).items():
        require_count(size, f"{name} of a RepVGGBlock")
    for name, channels in sizes.items():
        if channels % groups:
            raise CompanionError(f"{name} of a RepVGGBlock is {channels}; give a multiple of its {groups} groups")
