"""Compute layers whose CPU kernel is faulty or slow in another way.

- A strided 1x1 convolution over fewer than 16 channels-last channels: oneDNN's backward pass for the weights writes
  past its workspace (github.com/uxlfoundation/oneDNN/issues/6035, seen with torch 2.13). The heap is damaged, and the
  process may die some steps later. The 1x1 branch of RepVGG's first layer, 3 channels at stride 2, is such a layer. It
  equals the convolution with stride 1 of every stride-th pixel, whose kernel is correct.
- A strided 3x3 convolution over maps of one pixel in bf16: the backward pass leaves the weights' gradient unset (torch
  2.13, a CPU with AMX: the largest relative error against float64 is 1e5). The last stage of a RepVGG on images of 16
  pixels or less has such layers. On one pixel the stride changes nothing, and the kernel of stride 1 is correct.
- Convolutions of maps of a few pixels are correct but slow; they become matrix products (`training.small_maps`).
"""

from collections.abc import Callable

import torch
from torch import nn

from repvgg_companion.training.small_maps import SmallMapConv2d

SOUND_CHANNELS = 16


def avoid_faulty_and_slow_cpu_kernels(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Change the convolutions of `network` in place if `device` is a CPU; returns `network`.

    Outputs and gradients are the same up to rounding, state-dict keys are the same. The network is for training only:
    some layers have stride 1 afterwards, so do not count or convert it.
    """
    if torch.device(device).type == "cpu":
        for layer in [module for module in network.modules() if isinstance(module, nn.Conv2d)]:
            if _writes_past_its_workspace(layer):
                layer.register_forward_pre_hook(_every_nth_pixel(*layer.stride))
                layer.stride = (1, 1)
            elif _keeps_one_pixel(layer):
                layer.register_forward_pre_hook(_stride_unless_one_pixel((layer.stride[0], layer.stride[1])))
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


def _stride_unless_one_pixel(stride: tuple[int, int]) -> Callable[[nn.Conv2d, tuple[torch.Tensor]], None]:
    def choose(layer: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        layer.stride = (1, 1) if inputs[0].shape[-2:] == (1, 1) else stride

    return choose


def _every_nth_pixel(rows: int, columns: int) -> Callable[[nn.Module, tuple[torch.Tensor]], tuple[torch.Tensor]]:
    def thin(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0][:, :, ::rows, ::columns],)

    return thin
