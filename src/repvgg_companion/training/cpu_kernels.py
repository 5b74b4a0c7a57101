"""Layers whose CPU kernel is faulty or slow, computed another way: a network in, the same one on other kernels out.

oneDNN's backward pass for the weights of a strided 1x1 convolution over fewer than 16 channels-last channels writes
past its workspace (github.com/uxlfoundation/oneDNN/issues/6035, seen with torch 2.13): the heap is damaged, and the
process dies some steps later, or goes on. The 1x1 branch of RepVGG's first layer, 3 channels at stride 2, is such a
layer. A strided 1x1 convolution is the same convolution of every stride-th pixel, which takes a sound kernel.

Its bf16 backward pass for the weights of a strided 3x3 convolution over maps of a single pixel leaves the gradient
unset (torch 2.13, a CPU with AMX: against float64 the largest relative error is 1e5). The last stage of a RepVGG on
images of 16 pixels or less is such a layer. On one pixel the stride changes nothing, and stride 1 takes a sound kernel.

Convolutions of maps of a few pixels are sound but slow; they become matrix products (`training.small_maps`).
"""

import torch
from torch import nn

from repvgg_companion.training.small_maps import SmallMapConv2d

SOUND_CHANNELS = 16


def avoid_faulty_and_slow_cpu_kernels(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Keep the convolutions of `network` from faulty and slow kernels where `device` is a CPU; returns `network`.

    Outputs and gradients are those of the convolutions up to rounding; state-dict keys stay as they are. The network is
    for training only: a layer that sees no more than the pixels it uses has stride 1 afterwards, so it is not one to
    count or to convert.
    """
    if torch.device(device).type == "cpu":
        for layer in [module for module in network.modules() if isinstance(module, nn.Conv2d)]:
            if _writes_past_its_workspace(layer):
                layer.register_forward_pre_hook(_every_nth_pixel(*layer.stride))
                layer.stride = (1, 1)
            elif _keeps_one_pixel(layer):
                layer.register_forward_pre_hook(_stride_unless_one_pixel(layer.stride))
            SmallMapConv2d.convert(layer)
    return network


def _writes_past_its_workspace(layer: nn.Conv2d) -> bool:
    narrow = layer.in_channels // layer.groups < SOUND_CHANNELS
    return layer.kernel_size == (1, 1) and max(layer.stride) > 1 and not any(layer.padding) and narrow


def _keeps_one_pixel(layer: nn.Conv2d) -> bool:
    """Whether the layer has a stride and makes one pixel of one pixel."""
    reach = [dilation * (side - 1) for dilation, side in zip(layer.dilation, layer.kernel_size, strict=True)]
    padded = not isinstance(layer.padding, str) and [2 * padding for padding in layer.padding] == reach
    return max(layer.stride) > 1 and max(layer.kernel_size) > 1 and padded


def _stride_unless_one_pixel(stride: tuple[int, int]):
    def choose(layer: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        layer.stride = (1, 1) if inputs[0].shape[-2:] == (1, 1) else stride

    return choose


def _every_nth_pixel(rows: int, columns: int):
    def thin(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0][:, :, ::rows, ::columns],)

    return thin
