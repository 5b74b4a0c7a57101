"""Winograd convolutions on a CPU: F(2x2, 3x3) in the wide layers of a network.

The plain network is made of 3x3 convolutions because Winograd's algorithm computes 2x2 outputs with 16 multiplications
in the place of 36 (section 2.4, Table 1). cuDNN chooses it on a GPU by itself; oneDNN, and with it every CPU backend
here, always convolves directly. The 16 products are one batch of matrix products; torch.compile fuses the additions
around it.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from repvgg_companion.complexity.layers import Layer, trace_layers

# Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1: the output of a tile d of the
# images is A [(G w G') * (B d B')] A' with the matrices B, G and A below.
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_WEIGHT = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
_TILE = 4
_STEP = 2
LEAST_SAVING = 28
"""Multiply-adds saved for each value moved more, from which on a layer gains by `benchmarks/winograd.py`."""
_LEAST_SAVED = 50e6
"""Multiply-adds; the kernels around the products take 0.2 ms to start, however small the layer is."""
_PIECE_BYTES = 26e6
"""Images are taken in pieces whose tiles and products have this many bytes: more would leave the caches in between."""
_MOST_PIECES = 4
"""Every piece is compiled for itself."""


class WinogradConvolution(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, images [N, C, H, W] to [N, K, H, W], by F(2x2, 3x3).

    The weights are transformed in float64 and rounded once. Odd H and W are filled up with zeros.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.detach()
        matrix = torch.tensor(_WEIGHT, dtype=torch.float64, device=weight.device)
        grouped = weight.double().unflatten(0, (conv.groups, -1))
        transformed = torch.einsum("ia,gkcab,jb->ijgck", matrix, grouped, matrix).to(weight.dtype)
        self.groups = conv.groups
        # [16 places of a tile x groups, input channels, output channels]
        self.weight = nn.Parameter(transformed.flatten(0, 2).contiguous(), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the convolution; shapes as in the docstring of the class."""
        tiles = -(-images.shape[2] // _STEP) * -(-images.shape[3] // _STEP)
        values = len(images) * tiles * sum(self.weight.shape[1:]) * len(self.weight)
        pieces = min(math.ceil(values * images.element_size() / _PIECE_BYTES), _MOST_PIECES, len(images))
        if pieces <= 1:
            return self._maps(images)
        return torch.cat([self._maps(part) for part in images.split(-(-len(images) // pieces))])

    def _maps(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        rows, columns = (-(-side // _STEP) for side in (height, width))
        # Channels last: the additions run along the channels.
        padding = (0, 0, 1, 1 + _STEP * columns - width, 1, 1 + _STEP * rows - height)
        padded = functional.pad(images.permute(0, 2, 3, 1), padding)
        lines = [padded[:, i : i + _STEP * rows : _STEP] for i in range(_TILE)]
        tiles = []
        for vertical in _INPUT:
            line = _sum(vertical, lines)
            parts = [line[:, :, j : j + _STEP * columns : _STEP] for j in range(_TILE)]
            tiles += [_sum(horizontal, parts) for horizontal in _INPUT]
        # [16, N, rows, columns, C]; each place of the tile is a matrix of its own, [N rows columns, C], for each group.
        stacked = torch.stack(tiles).unflatten(4, (self.groups, -1)).permute(0, 4, 1, 2, 3, 5)
        products = torch.bmm(stacked.flatten(2, 4).flatten(0, 1), self.weight)
        products = products.view(_TILE, _TILE, self.groups, count, rows, columns, -1)
        outputs = []
        for vertical in _OUTPUT:
            line = _sum(vertical, products.unbind(0))
            outputs.append(torch.stack([_sum(horizontal, line.unbind(0)) for horizontal in _OUTPUT], 4))
        # [groups, N, rows, 2, columns, 2, K / groups]
        maps = torch.stack(outputs, 3).flatten(4, 5).flatten(2, 3).permute(1, 2, 3, 0, 4).flatten(3)
        if self.bias is not None:
            maps = maps + self.bias
        return maps[:, :height, :width].permute(0, 3, 1, 2)


def _sum(signs: Sequence[int], parts: Sequence[Tensor]) -> Tensor:
    """The sum of parts with signs 1, 0 and -1."""
    (first, part), *more = [(sign, part) for sign, part in zip(signs, parts, strict=True) if sign]
    total = part if first > 0 else -part
    for sign, part in more:
        total = total + part if sign > 0 else total - part
    return total


def saving(layer: Layer, batch_size: int) -> float:
    """Multiply-adds that F(2x2, 3x3) saves for each value that it moves more.

    0 where it cannot compute the layer or saves so few that starting more kernels costs as much.
    """
    # An odd side is filled up to an even one.
    direct, products = 9 * layer.output_px**2, _TILE**2 * (-(-layer.output_px // _STEP)) ** 2
    pairs = layer.in_channels * layer.out_channels // layer.groups
    saved = batch_size * (direct - products) * pairs
    if not layer.winograd_shape or saved < _LEAST_SAVED:
        return 0.0
    # Tiles and products are written and read once; the weights, 16 in the place of 9, are read.
    return saved / (2 * batch_size * products * (layer.in_channels + layer.out_channels) + _TILE**2 * pairs)


def with_winograd(module: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy of `module` in which every convolution that gains for inputs like `images` [N, 3, px, px] is replaced.

    None where none gains.
    """
    batch_size, _, _, px = images.shape
    chosen = {
        layer.name
        for layer in trace_layers(module, px)
        if saving(layer, batch_size) >= LEAST_SAVING and _padded_by_one(module.get_submodule(layer.name))
    }
    if not chosen:
        return None
    result = copy.deepcopy(module)
    for name in chosen:
        result.set_submodule(name, WinogradConvolution(_conv(result, name)))
    return result


def _padded_by_one(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.padding == (1, 1) and conv.padding_mode == "zeros"


def _conv(module: nn.Module, name: str) -> nn.Conv2d:
    conv = module.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv
