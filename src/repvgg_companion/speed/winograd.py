"""Winograd convolutions on a CPU: a network goes in, the same network with F(2x2, 3x3) in its wide layers comes out.

The plain network is made of 3x3 convolutions because Winograd's algorithm computes 2x2 outputs with 16 multiplications
in the place of 36 (section 2.4, Table 1). cuDNN chooses it on a GPU by itself; oneDNN, and with it every CPU backend
here, always convolves directly. The 16 products are one grouped 1x1 convolution, which oneDNN runs at the speed of its
direct convolutions; torch.compile fuses the additions around it.
"""

import copy
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
_BIAS_PLACE = 5
"""The product (1, 1) of the 4x4 enters each of the four outputs exactly once, so the bias is added there."""
LEAST_SAVING = 55
"""Multiply-adds saved for each value moved more, from which on a layer gains by `benchmarks/winograd.py`."""
MOST_PRODUCTS = 0.55
"""Part of the direct multiplications that may be left: 4/9 for an even side, 0.58 for 7 pixels filled up to 8."""


class WinogradConvolution(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, images [N, C, H, W] to [N, K, H, W], by F(2x2, 3x3).

    The weights are transformed in float64 and rounded once. Odd H and W are filled up with zeros.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.detach()
        matrix = torch.tensor(_WEIGHT, dtype=torch.float64, device=weight.device)
        transformed = torch.einsum("ia,kcab,jb->ijkc", matrix, weight.double(), matrix).to(weight.dtype)
        places = _TILE**2
        self.products = nn.Conv2d(
            places * conv.in_channels, places * conv.out_channels, 1, groups=places * conv.groups,
            bias=conv.bias is not None, device="meta",
        )  # fmt: skip
        self.products.weight = nn.Parameter(transformed.flatten(0, 2)[..., None, None], requires_grad=False)
        if conv.bias is not None:
            bias = weight.new_zeros(places, conv.out_channels)
            bias[_BIAS_PLACE] = conv.bias.detach()
            self.products.bias = nn.Parameter(bias.flatten(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
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
        # [N, rows, columns, 16, C], as the 1x1 convolution takes it: 16 C channels, last in memory.
        products = self.products(torch.stack(tiles, 3).flatten(3).permute(0, 3, 1, 2))
        products = products.permute(0, 2, 3, 1).unflatten(3, (_TILE, _TILE, -1))
        outputs = []
        for vertical in _OUTPUT:
            line = _sum(vertical, products.unbind(3))
            outputs.append(torch.stack([_sum(horizontal, line.unbind(3)) for horizontal in _OUTPUT], 3))
        # [N, rows, 2, columns, 2, K]
        maps = torch.stack(outputs, 2).flatten(3, 4).flatten(1, 2)
        return maps[:, :height, :width].permute(0, 3, 1, 2)


def _sum(signs: Sequence[int], parts: Sequence[Tensor]) -> Tensor:
    """The sum of parts with signs 1, 0 and -1."""
    total = None
    for sign, part in zip(signs, parts, strict=True):
        if total is None:
            total = part if sign > 0 else -part if sign < 0 else None
        elif sign:
            total = total + part if sign > 0 else total - part
    return total


def saving(layer: Layer, batch_size: int) -> float:
    """Multiply-adds that F(2x2, 3x3) saves for each value that it moves more.

    0 where it cannot compute the layer or filling up leaves more than `MOST_PRODUCTS`.
    """
    direct, products = 9 * layer.output_px**2, _TILE**2 * (-(-layer.output_px // _STEP)) ** 2
    if not layer.winograd_shape or products > MOST_PRODUCTS * direct:
        return 0.0
    pairs = layer.in_channels * layer.out_channels // layer.groups
    # Tiles and products are written and read once; there are 16 weights in the place of 9.
    moved = 2 * batch_size * products * (layer.in_channels + layer.out_channels) + (_TILE**2 - 9) * pairs
    return batch_size * (direct - products) * pairs / moved


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
        result.set_submodule(name, WinogradConvolution(result.get_submodule(name)))
    return result


def _padded_by_one(conv: nn.Conv2d) -> bool:
    return conv.padding == (1, 1) and conv.padding_mode == "zeros"
