"""Convolutions of small maps as matrix products: the same function and the same gradients."""

import copy

import pytest
import torch
from torch import nn

from repvgg_companion.training import small_maps
from repvgg_companion.training.small_maps import SmallMapConv2d


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias", "size"),
    [
        (3, 1, 1, False, (2, 2)),
        (3, 2, 1, False, (2, 2)),
        (3, 2, 1, False, (1, 1)),
        (3, 2, 1, True, (4, 4)),
        (1, 1, 0, True, (1, 1)),
        (1, 2, 0, False, (3, 3)),
        (3, 2, 1, False, (3, 4)),
        (5, 3, 2, False, (4, 5)),
        ((3, 1), (2, 1), (1, 0), False, (3, 2)),
        (3, 1, 0, False, (4, 4)),
    ],
)
def test_outputs_and_gradients_are_those_of_the_convolution(kernel, stride, padding, bias, size, layout, monkeypatch):
    torch.manual_seed(1)
    conv = nn.Conv2d(6, 10, kernel, stride, padding, bias=bias).double().to(memory_format=layout)
    small = copy.deepcopy(conv)
    SmallMapConv2d.convert(small)
    assert isinstance(small, SmallMapConv2d) and list(small.state_dict()) == list(conv.state_dict())
    taken = []
    real = small_maps._Product.apply
    monkeypatch.setattr(small_maps._Product, "apply", lambda *words: taken.append(1) or real(*words))
    found, wanted = [], []
    for layer, results in ((small, found), (conv, wanted)):
        images = torch.randn(3, 6, *size, dtype=torch.double, generator=torch.Generator().manual_seed(2))
        images = images.contiguous(memory_format=layout).requires_grad_()
        maps = layer(images)
        (maps * torch.arange(maps.numel()).view(maps.shape)).sum().backward()
        results += [maps, images.grad, *(parameter.grad for parameter in layer.parameters())]
    assert taken, "the matrix product was not taken"
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(small.parameters(), conv.parameters(), strict=True):
        assert ours.grad.stride() == theirs.grad.stride()


def test_large_maps_and_grouped_layers_take_the_convolution(monkeypatch):
    def never(*_):
        raise AssertionError("the matrix product was taken")

    monkeypatch.setattr(small_maps._Product, "apply", never)
    conv, grouped = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
    for layer in (conv, grouped):
        SmallMapConv2d.convert(layer)
    assert type(grouped) is nn.Conv2d
    conv(torch.randn(1, 4, 5, 5))
    grouped(torch.randn(1, 4, 2, 2))
