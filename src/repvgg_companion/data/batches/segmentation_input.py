"""Images with their label maps: uint8 images and maps of train ids (255: ignored).

Training batches are augmented as PSPNet's public code does it (random scale, crop and flip); evaluation yields whole
images one by one.
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from repvgg_companion.data.batches.normalize import MEAN
from repvgg_companion.data.batches.randomness import uniform_draws
from repvgg_companion.data.batches.training_input import AugmentedInput, TrainingInput
from repvgg_companion.data.cityscapes import IGNORED, LARGEST_ID, train_ids
from repvgg_companion.data.decode import UndecodableImage, UndecodableImages, decode_pillow
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.errors import CompanionError, one_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

SCALE_CROP_FLIP = "scale-crop-flip"
SCALES = (0.5, 2.0)
DRAWS = 4
PADDING = tuple(round(255 * level) for level in MEAN)
"""The colour beside a scaled image that is smaller than the crop; its label is `IGNORED`."""


def decode_map(data: bytes) -> np.ndarray:
    """A PNG of label ids as train ids, uint8 [height, width]. Raises UndecodableImage if it is something else."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UndecodableImage(one_line(f"its label map: {type(error).__name__}: {error}")) from None
    if image.mode != "L":
        raise UndecodableImage(f"its label map has mode {image.mode} instead of one channel of label ids")
    ids = np.asarray(image)
    if (strange := ids[(ids > LARGEST_ID) & (ids != IGNORED)]).size:
        raise UndecodableImage(f"its label map holds the id {int(strange[0])}; label ids are 0 to {LARGEST_ID}")
    return train_ids()[ids]


class SegmentationInput(TrainingInput):
    """Batches of uint8 images [n, 3, px, px] and train ids [n, px, px] (uint8); otherwise as `TrainingInput`.

    `manifest` has label maps, `augmentation` is `scale-crop-flip`. A pair in which the image or the map cannot be
    decoded is treated like an undecodable image.
    """

    def _augmented(self) -> "_AugmentedPairs":
        if self.augmentation != SCALE_CROP_FLIP:
            raise CompanionError(
                f"augmentation is {self.augmentation!r}; a network that segments is trained with {SCALE_CROP_FLIP}"
            )
        return _AugmentedPairs(self.manifest, self.input_px, self.seed, self.undecodable)


def crop_with_map(image: "Image.Image", ids: np.ndarray, px: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale both by 0.5 to 2, cut the same px x px crop of both, mirror both with probability 0.5.

    `draws` are 4 uniform numbers: scale, top, left, flip. Pixels are interpolated bilinearly, ids are those of the
    nearest pixel. A scaled image smaller than the crop is centred; around it are the mean colour and the id 255.
    Returns uint8 [px, px, 3] and uint8 [px, px].
    """
    from PIL import Image as Pillow

    scale = SCALES[0] + (SCALES[1] - SCALES[0]) * draws[0]
    full = [max(1, round(side * scale)) for side in image.size]  # width, height
    cut = [min(px, side) for side in full]
    start = [int(draw * (side - part + 1)) for draw, side, part in zip((draws[2], draws[1]), full, cut, strict=True)]
    ratio = [side / scaled for side, scaled in zip(image.size, full, strict=True)]
    low = [place * r for place, r in zip(start, ratio, strict=True)]
    # The last pixel may end a rounding error beyond the image.
    high = [min((place + part) * r, float(side))
            for place, part, r, side in zip(start, cut, ratio, image.size, strict=True)]  # fmt: skip
    box = (low[0], low[1], high[0], high[1])
    pixels = np.asarray(image.resize(tuple(cut), Pillow.Resampling.BILINEAR, box=box))
    labels = np.asarray(Pillow.fromarray(ids).resize(tuple(cut), Pillow.Resampling.NEAREST, box=box))
    if draws[3] < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    if cut == [px, px]:
        return pixels, labels
    whole, whole_labels = np.full((px, px, 3), PADDING, np.uint8), np.full((px, px), IGNORED, np.uint8)
    left, top = (px - cut[0]) // 2, (px - cut[1]) // 2
    whole[top : top + cut[1], left : left + cut[0]] = pixels
    whole_labels[top : top + cut[1], left : left + cut[0]] = labels
    return whole, whole_labels


class _Pairs:
    """Reads and decodes an image and its map."""

    def __init__(self, manifest: Manifest) -> None:
        if manifest.maps is None:
            raise CompanionError(
                f"{manifest.path or 'the manifest'} lists no label maps; index a segmentation dataset, such as "
                "Cityscapes with --cityscapes-folder"
            )
        self.reader, self.maps = ImageReader(manifest), ImageReader(manifest.maps)

    def pair(self, index: int) -> "tuple[Image.Image, np.ndarray]":
        """The image and its train ids of the same size; raises UndecodableImage."""
        image = decode_pillow(self.reader.read(index))
        ids = decode_map(self.maps.read(index))
        if ids.shape != image.size[::-1]:
            size = "x".join(map(str, ids.shape[::-1]))
            raise UndecodableImage(f"its label map has {size} pixels instead of {image.size[0]}x{image.size[1]}")
        return image, ids


class _AugmentedPairs(AugmentedInput):
    """Augments pairs into a batch's memory."""

    def __init__(self, manifest: Manifest, px: int, seed: int, undecodable: UndecodableImages) -> None:
        self.pairs = _Pairs(manifest)
        super().__init__(self.pairs.reader, undecodable)
        self.px, self.seed = px, seed

    def decoded(self, index: int) -> "tuple[Image.Image, np.ndarray]":
        """The pair; pairs are not cached, because whole images of Cityscapes are large."""
        return self.pairs.pair(index)

    def batch(self, indices: np.ndarray, epoch: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """uint8 images [n, 3, px, px] and train ids [n, px, px]."""
        import torch

        draws = uniform_draws(self.seed, epoch, indices, DRAWS)
        images = torch.empty((len(indices), self.px, self.px, 3), dtype=torch.uint8)
        labels = torch.empty((len(indices), self.px, self.px), dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            (image, ids), _ = self.first_decodable(index)
            pixels, ids = crop_with_map(image, ids, self.px, draws[place])
            images[place] = torch.from_numpy(pixels.copy())
            labels[place] = torch.from_numpy(ids.copy())
        return images.permute(0, 3, 1, 2), labels


def whole_images(
    manifest: Manifest, *, start: int = 0, stop: int | None = None, undecodable: UndecodableImages | None = None
) -> "Iterator[tuple[torch.Tensor, torch.Tensor] | None]":
    """Images `start` to `stop` in order, each as uint8 [1, 3, h, w] with its train ids, uint8 [1, h, w].

    Under the policy `count` an image that cannot be decoded gives None; under `stop` it raises CompanionError.
    """
    import torch

    pairs = _Pairs(manifest)
    undecodable = UndecodableImages() if undecodable is None else undecodable
    for index in range(len(manifest))[start:stop]:
        try:
            image, ids = pairs.pair(index)
        except UndecodableImage as error:
            undecodable.report(manifest, index, str(error))
            yield None
            continue
        yield torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], torch.from_numpy(ids.copy())[None]
