"""Evaluation batches in manifest order: uint8 images [n, 3, px, px] and labels [n] under an evaluation protocol.

The default decoder is Pillow, bit for bit what torchvision's Resize and CenterCrop give on a Pillow image;
`torchvision` is the fast one, off by at most one level. Importing this module needs no torch.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repvgg_companion.data.batches.decoded_cache import DecodedCache
from repvgg_companion.data.batches.loading import load
from repvgg_companion.data.decode import (
    Undecodable,
    UndecodableImage,
    UndecodableImages,
    decode_pillow,
    decode_torchvision,
    jpeg_components,
    pixels_of,
)
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.data.reader import ImageReader

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

UNDECODABLE_LEVEL = 128
FEW_WEIGHTS = 16


def decode_evaluation_image(data: bytes, protocol: EvaluationProtocol) -> "torch.Tensor":
    """One image under a protocol: uint8 [px, px, 3]. Raises UndecodableImage."""
    if protocol.decoder == "pillow" or jpeg_components(data) not in (1, 3):
        return evaluation_image(decode_pillow(data), protocol)
    image = decode_torchvision(data)
    # torch's bicubic is off by two levels on some edges, whatever the sizes.
    if protocol.interpolation != "bilinear" or _ties_are_common(image.shape[2], image.shape[1], protocol.resize_px):
        return evaluation_image(_as_pillow(image), protocol)
    return _center_crop(_resized_torchvision(image, protocol), protocol.crop_px).permute(1, 2, 0)


def evaluation_image(image: "Image", protocol: EvaluationProtocol) -> "torch.Tensor":
    """A Pillow image in mode RGB under a protocol: uint8 [px, px, 3]."""
    pixels = pixels_of(_resized_pillow(image, protocol))
    return _center_crop(pixels, protocol.crop_px).permute(1, 2, 0)


def _ties_are_common(width: int, height: int, short: int | None) -> bool:
    """Whether a resize has few distinct weights, as 5:4 has, so that many sums lie midway between two levels.

    torch's 16-bit weights then round 7 % of the pixels another way than Pillow's 22-bit ones, some of them in both
    directions of the resize, which makes two levels. Elsewhere 0.2 % differ, by one level.
    """
    if short is None:
        return False
    new_width, new_height = _resized_size(width, height, short)
    return min(new_width // math.gcd(width, new_width), new_height // math.gcd(height, new_height)) <= FEW_WEIGHTS


def _as_pillow(image: "torch.Tensor") -> "Image":
    from PIL.Image import fromarray

    return fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _resized_size(width: int, height: int, short: int) -> tuple[int, int]:
    # torchvision's Resize: the long side is rounded down.
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)


def _resized_pillow(image: "Image", protocol: EvaluationProtocol) -> "Image":
    from PIL.Image import Resampling

    if protocol.resize_px is None:
        return image
    size = _resized_size(image.size[0], image.size[1], protocol.resize_px)
    return image if size == image.size else image.resize(size, Resampling[protocol.interpolation.upper()])


def _resized_torchvision(image: "torch.Tensor", protocol: EvaluationProtocol) -> "torch.Tensor":
    from torch.nn.functional import interpolate

    if protocol.resize_px is None:
        return image
    width, height = _resized_size(image.shape[2], image.shape[1], protocol.resize_px)
    if (height, width) == image.shape[1:]:
        return image
    # transforms.v2 ends in this call too. The batch dimension is added while the channels are last: otherwise torch
    # treats the pixels as planes, which takes a third longer.
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return interpolate(batch, size=(height, width), mode=protocol.interpolation, antialias=True)[0]


def _center_crop(image: "torch.Tensor", px: int) -> "torch.Tensor":
    """The central square as torchvision's CenterCrop cuts it; what is smaller is padded with black first."""
    import torch

    _, height, width = image.shape
    if height < px or width < px:
        left, top = max(0, (px - width) // 2), max(0, (px - height) // 2)
        right, bottom = max(0, (px - width + 1) // 2), max(0, (px - height + 1) // 2)
        image = torch.nn.functional.pad(image, (left, right, top, bottom))
        _, height, width = image.shape
    top, left = round((height - px) / 2.0), round((width - px) / 2.0)
    return image[:, top : top + px, left : left + px]


def evaluation_batches(  # noqa: PLR0913 - options of one iterator; each caller sets two or three
    manifest: Manifest,
    protocol: EvaluationProtocol,
    *,
    batch_size: int,
    workers: int = 0,
    cache: str | Path | None = None,
    start: int = 0,
    stop: int | None = None,
    indices: "np.ndarray | None" = None,
    undecodable: UndecodableImages | None = None,
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Batches of images `start` to `stop` of the manifest, or of `indices`, in order; the last one may be smaller.

    Yields uint8 [n, 3, px, px] (channels last in memory) and int64 labels [n]. With `cache`, a file of the verb
    `cache`, nothing is decoded. An image that cannot be decoded stops the run; under the policy `count` it is a grey
    square, and `undecodable.found` lists it. A manifest is sorted by label: take `indices` at even steps for a sample
    of all classes.
    """
    chosen = np.arange(len(manifest))[start:stop] if indices is None else np.asarray(indices)
    undecodable = UndecodableImages() if undecodable is None else undecodable
    groups = [chosen[at : at + batch_size] for at in range(0, len(chosen), batch_size)]
    if cache is not None:
        decoded = DecodedCache(cache, manifest, protocol, undecodable)
        for group in groups:
            yield decoded.images(group), _labels(manifest, group)
        return
    images = _EvaluationImages(ImageReader(manifest).open(), protocol, groups, undecodable)
    for batch in load(images, range(len(groups)), workers=workers):
        undecodable.found.update({item.index: item for item in batch.undecodable})
        yield batch.images, batch.labels


class EvaluationBatch(NamedTuple):
    """What a worker sends back: the batch and its undecodable images."""

    images: "torch.Tensor"
    labels: "torch.Tensor"
    undecodable: list[Undecodable]


class _EvaluationImages:
    def __init__(
        self,
        reader: ImageReader,
        protocol: EvaluationProtocol,
        groups: list[np.ndarray],
        undecodable: UndecodableImages,
    ) -> None:
        self.reader, self.protocol, self.groups = reader, protocol, groups
        self.policy = undecodable.policy

    def __getitem__(self, number: int) -> EvaluationBatch:
        import torch

        group, px, manifest = self.groups[number], self.protocol.crop_px, self.reader.manifest
        images = torch.empty((len(group), px, px, 3), dtype=torch.uint8)
        undecodable = UndecodableImages(self.policy)
        for place, index in enumerate(group.tolist()):
            try:
                images[place] = decode_evaluation_image(self.reader.read(index), self.protocol)
            except UndecodableImage as error:
                undecodable.report(manifest, index, str(error))
                images[place] = UNDECODABLE_LEVEL
        return EvaluationBatch(images.permute(0, 3, 1, 2), _labels(manifest, group), list(undecodable.found.values()))


def _labels(manifest: Manifest, indices: np.ndarray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(manifest.labels[indices])
