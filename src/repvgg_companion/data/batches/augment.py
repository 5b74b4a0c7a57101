"""Training augmentations: from an image and its uniform random numbers to uint8 pixels [px, px, 3].

`crop-flip` is the paper's (section 4.1: random crop and left-right flip, as in the PyTorch ImageNet example, that is
RandomResizedCrop and RandomHorizontalFlip); `crop-flip-autoaugment` adds AutoAugment (section 4.2, 200 epochs); `shift`
moves a digit by up to an eighth of its width, since digits must not be flipped; `shift-flip` does both, the padded crop
and flip that are usual for photographs of 32 px; `none` resizes only.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from repvgg_companion.errors import CompanionError

if TYPE_CHECKING:
    import torch
    from PIL import Image

AUGMENTATIONS = ("crop-flip", "crop-flip-autoaugment", "shift", "shift-flip", "none")
OF_WHOLE_IMAGES = ("shift", "shift-flip", "none")
"""Augmentations that start from whole images, which can be decoded once and kept."""
CROP_TRIES = 10
CROP_AREA = (0.08, 1.0)
CROP_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
DRAWS = 4 * CROP_TRIES + 2
SHIFT_SHARE = 8


def require_augmentation(name: str) -> str:
    """Return the name; raises CompanionError if it is not one of `AUGMENTATIONS`."""
    if name not in AUGMENTATIONS:
        raise CompanionError(f"augmentation is {name!r}; it must be one of {', '.join(AUGMENTATIONS)}")
    return name


def crop_box(width: int, height: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """The box (left, top, width, height) of RandomResizedCrop from 40 uniform numbers.

    The distribution is that of torchvision's `RandomResizedCrop.get_params`: up to ten tries of an area between 8 and
    100 % and a ratio between 3/4 and 4/3, then the largest central box within these ratios.
    """
    area = width * height
    for area_draw, ratio_draw, top_draw, left_draw in draws[: 4 * CROP_TRIES].reshape(CROP_TRIES, 4).tolist():
        target = area * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area_draw)
        ratio = math.exp(CROP_LOG_RATIO[0] + (CROP_LOG_RATIO[1] - CROP_LOG_RATIO[0]) * ratio_draw)
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1)), w, h
    ratio = width / height
    w, h = width, height
    if ratio < 3 / 4:
        h = round(w / (3 / 4))
    elif ratio > 4 / 3:
        w = round(h * (4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


def flips(draws: np.ndarray) -> bool:
    """Whether the image is mirrored, with probability 0.5; decided by the number after those of the crop."""
    return bool(draws[4 * CROP_TRIES] < 0.5)


def decoded_bytes(image: "Image.Image | torch.Tensor | np.ndarray") -> int:
    """The memory of a decoded image; Pillow stores four bytes per pixel."""
    return image.nbytes if hasattr(image, "nbytes") else 4 * image.width * image.height


def crop_flip_torchvision(
    image: "torch.Tensor", px: int, draws: np.ndarray, *, autoaugment: bool = False
) -> "torch.Tensor":
    """transforms.v2 on uint8 [3, height, width]: [px, px, 3]."""
    from torchvision.transforms.v2 import functional

    left, top, width, height = crop_box(image.shape[2], image.shape[1], draws)
    # Resizing a contiguous crop takes half as long as resizing a view into the whole image.
    crop = image.permute(1, 2, 0)[top : top + height, left : left + width].contiguous().permute(2, 0, 1)
    image = functional.resize(crop, [px, px], antialias=True)
    if flips(draws):
        image = image.flip(-1)
    if autoaugment:
        image = _auto_augment(image, draws)
    return image.permute(1, 2, 0)


def _auto_augment(image: "torch.Tensor", draws: np.ndarray) -> "torch.Tensor":
    import torch
    from torchvision.transforms.v2 import AutoAugment

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the devices' generators as well.
        torch.default_generator.manual_seed(int(draws[4 * CROP_TRIES + 1] * 2**53))
        return AutoAugment()(image)


def crop_flip_pillow(
    image: "Image.Image", px: int, draws: np.ndarray, *, autoaugment: bool = False
) -> "np.ndarray | torch.Tensor":
    """Pillow crop and bilinear resize, as in the PyTorch ImageNet example: [px, px, 3]."""
    from PIL import Image

    left, top, width, height = crop_box(*image.size, draws)
    image = image.crop((left, top, left + width, top + height)).resize((px, px), Image.Resampling.BILINEAR)
    if flips(draws):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if autoaugment:
        import torch

        return _auto_augment(torch.from_numpy(np.array(image)).permute(2, 0, 1), draws).permute(1, 2, 0)
    return np.array(image)


def crop_flip_opencv(
    image: np.ndarray, px: int, draws: np.ndarray, *, autoaugment: bool = False
) -> "np.ndarray | torch.Tensor":
    """Crop uint8 [height, width, 3] and resize by OpenCV: by area to shrink, else linear. For packed copies."""
    import cv2

    cv2.setNumThreads(1)  # the workers already use all cores; OpenCV's own threads would only slow them down
    left, top, width, height = crop_box(image.shape[1], image.shape[0], draws)
    image = image[top : top + height, left : left + width]
    shrinks = width > px and height > px
    image = cv2.resize(image, (px, px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if flips(draws):
        image = cv2.flip(image, 1)
    if autoaugment:
        import torch

        return _auto_augment(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), draws).permute(1, 2, 0)
    return image


CROP_FLIP: dict[str, Callable[..., Any]] = {
    "torchvision": crop_flip_torchvision,
    "pillow": crop_flip_pillow,
    "opencv": crop_flip_opencv,
}
"""The crop of an image as the decoder of the same name gives it."""


def shift(images: "torch.Tensor", draws: np.ndarray) -> "torch.Tensor":
    """Move each of uint8 [n, px, px, 3] by up to px // 8 pixels in both directions, filling with black."""
    import torch

    n, px, _, _ = images.shape
    reach = px // SHIFT_SHARE
    steps = torch.from_numpy((draws[:, :2] * (2 * reach + 1)).astype(np.int64))
    padded = torch.zeros((n, px + 2 * reach, px + 2 * reach, 3), dtype=torch.uint8)
    padded[:, reach : reach + px, reach : reach + px] = images
    windows = padded.unfold(1, px, 1).unfold(2, px, 1)  # [n, place, place, 3, px, px]
    return windows[torch.arange(n), steps[:, 0], steps[:, 1]].permute(0, 2, 3, 1)


def flip(images: "torch.Tensor", draws: np.ndarray) -> "torch.Tensor":
    """Mirror each of uint8 [n, px, px, 3] with probability 0.5, by its random numbers."""
    import torch

    mirrored = torch.from_numpy(draws[:, 4 * CROP_TRIES] < 0.5)
    return torch.where(mirrored[:, None, None, None], images.flip(2), images)
