"""Convolutions whose output is a map of a few pixels, computed as matrix products on a CPU.

oneDNN spreads a convolution over the pixels of a map, and the last stages of a network on small images have few: on a
CPU with AMX the weights' gradient of RepVGG-A0's last layer at 32 px (192 to 1280 channels, 2 x 2 pixels to one) takes
8 times as long as the same matrix product, and the layers of the stage before 2.5 times (torch 2.13).
"""

from typing import Any

import torch
from torch import nn

MOST_PIXELS = 4
"""Largest output map, in pixels, that is computed as a matrix product; at 16 pixels both ways take the same time."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is computed as a matrix product if its output map has at most `MOST_PIXELS` pixels.

    Same parameters, state-dict keys and function as `nn.Conv2d`; an existing layer becomes one by `convert`.
    """

    @staticmethod
    def convert(layer: nn.Conv2d) -> None:
        """Turn a plain, ungrouped convolution into this class; leaves any other layer as it is."""
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        if type(layer) is nn.Conv2d and plain and not isinstance(layer.padding, str):
            layer.__class__ = SmallMapConv2d

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, in, h, w] to maps [n, out, h', w'] (channels last where the product is taken)."""
        padding = (int(self.padding[0]), int(self.padding[1]))
        sides = [
            (images.shape[axis - 2] + 2 * padding[axis] - self.kernel_size[axis]) // self.stride[axis] + 1
            for axis in (0, 1)
        ]
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        if images.ndim != 4 or sides[0] * sides[1] > MOST_PIXELS or images.is_cuda or dtype not in _DTYPES:
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            maps = _Product.apply(images.to(dtype), self.weight.to(dtype), self.stride, padding)
            return maps if self.bias is None else maps + self.bias.to(dtype).view(1, -1, 1, 1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, images: torch.Tensor, weight: torch.Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> torch.Tensor:
        rows, columns = weight.shape[2:]
        padded = nn.functional.pad(
            images.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0])
        )  # [n, h, w, in]
        windows = padded.unfold(1, rows, stride[0]).unfold(2, columns, stride[1]).permute(0, 1, 2, 4, 5, 3)
        n, height, width = windows.shape[:3]
        patches = windows.reshape(n * height * width, -1)  # [pixels, rows columns in]
        kernel = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        context.save_for_backward(patches, kernel)
        context.sizes = (windows.shape, padded.shape, images.shape, stride, padding, weight.stride())
        return (patches @ kernel.t()).view(n, height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        patches, kernel = context.saved_tensors
        (n, height, width, rows, columns, channels), padded, images, stride, padding, strides = context.sizes
        gradient = gradient.permute(0, 2, 3, 1).reshape(n * height * width, -1)
        of_images = of_weight = None
        if context.needs_input_grad[1]:
            of_weight = (gradient.t() @ patches).view(-1, rows, columns, channels).permute(0, 3, 1, 2)
            if rows == columns == 1:  # the optimizer's fused kernel wants the strides of the parameter, also of size 1
                of_weight = of_weight.as_strided(of_weight.shape, strides)
        if context.needs_input_grad[0]:
            of_windows = (gradient @ kernel).view(n, height, width, rows, columns, channels)
            of_padded = gradient.new_zeros(padded)
            for row in range(rows):
                for column in range(columns):
                    reached = of_padded[
                        :,
                        row : row + (height - 1) * stride[0] + 1 : stride[0],
                        column : column + (width - 1) * stride[1] + 1 : stride[1],
                    ]
                    reached += of_windows[:, :, :, row, column]
            inside = of_padded[:, padding[0] : padding[0] + images[2], padding[1] : padding[1] + images[3]]
            of_images = inside.permute(0, 3, 1, 2)
        return of_images, of_weight, None, None
