"""Layers whose CPU kernel is faulty, computed another way: a network in, the same network on sound kernels out.

oneDNN's backward pass for the weights of a strided 1x1 convolution over fewer than 16 channels-last channels writes
past its workspace (github.com/uxlfoundation/oneDNN/issues/6035, seen with torch 2.13): the heap is damaged, and the
process dies some steps later, or goes on. The 1x1 branch of RepVGG's first layer, 3 channels at stride 2, is such a
layer. A strided 1x1 convolution is the same convolution of every stride-th pixel, which takes a sound kernel.

Its bf16 backward pass for the weights of a strided 3x3 convolution over maps of a single pixel leaves the gradient
unset (torch 2.13, a CPU with AMX: against float64 the largest relative error is 1e5). The last stage of a RepVGG on
images of 16 pixels or less is such a layer. On one pixel the stride changes nothing, and stride 1 takes a sound kernel.
"""

import torch
from torch import nn

from repvgg_companion.training.small_maps import SmallMapConv2d

SOUND_CHANNELS = 16


def use_sound_kernels(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Let every affected layer of `network` see the pixels it uses and no others, on a CPU; returns `network`.

    Convolutions of small maps, which oneDNN computes slowly, become matrix products (`training.small_maps`).

    Outputs and gradients are those of the strided convolution up to rounding; state-dict keys stay as they are. The
    network is for training only: affected layers have stride 1 afterwards, so it is not one to count or to convert.
    """
    if torch.device(device).type == "cpu":
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and _affected(layer):
                layer.register_forward_pre_hook(_every_nth_pixel(*layer.stride))
                layer.stride = (1, 1)
            elif isinstance(layer, nn.Conv2d) and _keeps_one_pixel(layer):
                layer.register_forward_pre_hook(_stride_unless_one_pixel(layer.stride))
            if isinstance(layer, nn.Conv2d):
                SmallMapConv2d.convert(layer)
    return network


def _affected(layer: nn.Conv2d) -> bool:
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
