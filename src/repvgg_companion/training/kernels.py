"""Layers whose CPU kernel is faulty, computed another way: a network in, the same network on sound kernels out.

Two faults of oneDNN, seen with torch 2.11 and 2.13:
- The backward pass for the weights of a strided 1x1 convolution over fewer than 16 channels-last channels writes past
  its workspace (github.com/uxlfoundation/oneDNN/issues/6035): the heap is damaged, and the process dies some steps
  later, or goes on. The 1x1 branch of RepVGG's first layer, 3 channels at stride 2, is such a layer. A strided 1x1
  convolution is the same convolution of every stride-th pixel, which takes a sound kernel.
- In bfloat16 the weights' gradient of a strided 3x3 convolution over a map of one pixel is written for the taps that
  see this pixel only; the others, which see padding and whose gradient is 0, keep what the memory held before. The
  last stage of a RepVGG meets such a map where the images have 16 pixels or fewer.
"""

import torch
from torch import Tensor, nn

SOUND_CHANNELS = 16


def use_sound_kernels(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Let every affected layer of `network` take a sound kernel on a CPU, or mend its gradient; returns `network`.

    Outputs and gradients are those of the strided convolution up to rounding; state-dict keys stay as they are. The
    network is for training only: 1x1 layers have stride 1 afterwards, so it is not one to count or to convert.
    """
    if torch.device(device).type == "cpu":
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1:
                if _writes_too_far(layer):
                    layer.register_forward_pre_hook(_every_nth_pixel(*layer.stride))
                    layer.stride = (1, 1)
                elif layer.kernel_size == (3, 3) and layer.padding == (1, 1) == layer.dilation:
                    layer.register_forward_pre_hook(_note_size)
                    layer.weight.register_hook(_without_padding_taps(layer))
    return network


def _writes_too_far(layer: nn.Conv2d) -> bool:
    narrow = layer.in_channels // layer.groups < SOUND_CHANNELS
    return layer.kernel_size == (1, 1) and not any(layer.padding) and narrow


def _every_nth_pixel(rows: int, columns: int):
    def thin(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][:, :, ::rows, ::columns],)

    return thin


def _note_size(layer: nn.Module, inputs: tuple[Tensor]) -> None:
    layer.seen_size = inputs[0].shape[-2:]


def _without_padding_taps(layer: nn.Conv2d):
    def mend(gradient: Tensor) -> Tensor:
        height, width = layer.seen_size
        if min(height, width) > 1:
            return gradient
        seen = torch.zeros_like(gradient)
        rows = slice(1, 2) if height == 1 else slice(None)
        columns = slice(1, 2) if width == 1 else slice(None)
        seen[:, :, rows, columns] = gradient[:, :, rows, columns]
        return seen

    return mend
