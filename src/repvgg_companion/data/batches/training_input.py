"""Shuffled, augmented training batches: uint8 images [n, 3, px, px] and int64 labels [n].

The order of an epoch depends on (seed, epoch) only and the augmentation of an image on (seed, epoch, image) only, so
any number of workers and processes sees the same batches, and an epoch can be entered in its middle.
"""

import abc
import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repvgg_companion.data.batches.augment import (
    CROP_FLIP,
    DRAWS,
    OF_WHOLE_IMAGES,
    decoded_bytes,
    flip,
    require_augmentation,
    shift,
)
from repvgg_companion.data.batches.evaluation_input import decode_evaluation_image
from repvgg_companion.data.batches.loading import load
from repvgg_companion.data.batches.randomness import epoch_order, uniform_draws
from repvgg_companion.data.decode import DECODERS, Undecodable, UndecodableImage, UndecodableImages
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.data.whole_batch import require_whole_batch
from repvgg_companion.errors import CompanionError

if TYPE_CHECKING:
    import torch

MOST_BYTES_IN_MEMORY = 512_000_000
SAMPLED = 64
"""So many images are decoded to estimate the memory of all of them."""


class TrainingInput:
    """Batches of one training split.

    `augmentation` is one of `AUGMENTATIONS`, `decoder` one of `DECODERS` (`opencv` is meant for packed copies).
    `workers` are processes that decode; they share one descriptor per archive. With workers=0 the decoded images are
    kept if all of them take at most 512 MB. An image that cannot be decoded stops the run, or (`undecodable="count"`)
    is replaced by the next one that can, and is listed in `undecodable.found`.
    """

    def __init__(  # noqa: PLR0913 - settings of the input pipeline, taken from a recipe
        self,
        manifest: Manifest,
        *,
        input_px: int,
        augmentation: str,
        decoder: str = "torchvision",
        seed: int,
        workers: int = 0,
        undecodable: str = "stop",
        pin_memory: bool = False,
    ) -> None:
        self.manifest, self.input_px, self.seed, self.workers = manifest, input_px, seed, workers
        self.augmentation, self.decoder = augmentation, decoder
        self.undecodable, self.pin_memory = UndecodableImages(undecodable), pin_memory
        self._images = self._augmented()

    def _augmented(self) -> "AugmentedInput":
        """The object that decodes and augments; raises CompanionError if augmentation or decoder do not fit."""
        if self.decoder not in DECODERS:
            raise CompanionError(f"decoder is {self.decoder!r}; it must be one of {', '.join(DECODERS)}")
        require_augmentation(self.augmentation)
        reader = ImageReader(self.manifest)
        return _AugmentedImages(reader, self.input_px, self.augmentation, self.decoder, self.seed, self.undecodable)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of whole global batches in an epoch; raises CompanionError if there is none."""
        require_whole_batch(batch_size, len(self.manifest))
        return len(self.manifest) // batch_size

    def batches(
        self, epoch: int, *, batch_size: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """This process's share of the epoch's global batches of `batch_size`, from global batch `start` on.

        Yields uint8 [batch_size / world, 3, px, px] (channels last in memory) and int64 labels; the last, incomplete
        global batch is dropped. Raises CompanionError if `world` does not divide the batch, an archive was replaced,
        or an image cannot be decoded and the policy is `stop`.
        """
        if batch_size % world:
            raise CompanionError(f"a global batch of {batch_size} cannot be split evenly over {world} processes")
        steps = self.steps_per_epoch(batch_size)
        order = epoch_order(len(self.manifest), self.seed, epoch)[: steps * batch_size]
        share = order.reshape(steps, world, batch_size // world)[:, rank]
        self._images.reader.open()
        if self.workers == 0:
            self._images.keep_decoded()
        dataset = _EpochBatches(self._images, share, epoch)
        for batch in load(dataset, range(start, steps), workers=self.workers, pin_memory=self.pin_memory):
            self.undecodable.found.update({item.index: item for item in batch.undecodable})
            yield batch.images, batch.labels


class AugmentedInput(abc.ABC):
    """What decodes and augments images into batches."""

    def __init__(self, reader: ImageReader, undecodable: UndecodableImages) -> None:
        self.reader, self.undecodable = reader, undecodable

    @abc.abstractmethod
    def batch(self, indices: np.ndarray, epoch: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """Images and labels of some places of the manifest in an epoch."""

    @abc.abstractmethod
    def decoded(self, index: int) -> Any:
        """The decoded image at a place of the manifest, ready to be augmented; raises UndecodableImage."""

    def keep_decoded(self) -> None:  # noqa: B027 - not every input keeps images
        """Keep what is decoded from now on, if that helps."""

    def first_decodable(self, index: int) -> tuple[Any, int]:
        """`decoded` and its place: this one, or under the policy `count` the next one that can be decoded."""
        manifest = self.reader.manifest
        for step in range(len(manifest)):
            candidate = (index + step) % len(manifest)
            try:
                return self.decoded(candidate), candidate
            except UndecodableImage as error:
                self.undecodable.report(manifest, candidate, str(error))
        raise CompanionError("no image of the training set can be decoded; check the archives or folders")


class Batch(NamedTuple):
    """What a worker sends back: the batch and the undecodable images that it met for the first time."""

    images: "torch.Tensor"
    labels: "torch.Tensor"
    undecodable: list[Undecodable]


class _EpochBatches:
    """The batches of one process in one epoch, by step."""

    def __init__(self, images: "AugmentedInput", share: np.ndarray, epoch: int) -> None:
        self.images, self.share, self.epoch = images, share, epoch

    def __getitem__(self, step: int) -> Batch:
        known = set(self.images.undecodable.found)
        images, labels = self.images.batch(self.share[step], self.epoch)
        found = self.images.undecodable.found
        return Batch(images, labels, [found[index] for index in found.keys() - known])


class _AugmentedImages(AugmentedInput):
    """Decodes and augments single images into a batch's memory."""

    def __init__(  # noqa: PLR0913 - the same settings
        self, reader: ImageReader, px: int, augmentation: str, decoder: str, seed: int, undecodable: UndecodableImages
    ) -> None:
        super().__init__(reader, undecodable)
        self.px, self.augmentation, self.decoder, self.seed = px, augmentation, decoder, seed
        self.whole = EvaluationProtocol(px, px, decoder=decoder if decoder != "opencv" else "pillow")
        self._decoded: dict[int, Any] | None = None

    def keep_decoded(self) -> None:
        """Keep what is decoded from now on, if the whole set fits."""
        n = len(self.reader.manifest)
        if self._decoded is None and self._bytes_each() * n <= MOST_BYTES_IN_MEMORY:
            self._decoded = {}

    def _bytes_each(self) -> float:
        """The memory of a decoded image: the mean of a sample, unless all have one size."""
        if self.augmentation in OF_WHOLE_IMAGES:
            return self.px**2 * 3
        n, sizes = len(self.reader.manifest), []
        for index in np.linspace(0, n - 1, min(n, SAMPLED)).astype(int).tolist():
            with contextlib.suppress(UndecodableImage):
                sizes.append(decoded_bytes(self._decode(index)))
        return float(np.mean(sizes)) if sizes else math.inf

    def _decode(self, index: int) -> Any:
        """The image of a place of the manifest, as the augmentation takes it."""
        data = self.reader.read(index)
        if self.augmentation in OF_WHOLE_IMAGES:
            return decode_evaluation_image(data, self.whole)
        return DECODERS[self.decoder](data)

    def decoded(self, index: int) -> Any:
        """The image, decoded now or before."""
        if self._decoded is None:
            return self._decode(index)
        if index not in self._decoded:
            self._decoded[index] = self._decode(index)
        return self._decoded[index]

    def batch(self, indices: np.ndarray, epoch: int) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        draws = uniform_draws(self.seed, epoch, indices, DRAWS)
        labels = torch.from_numpy(self.reader.manifest.labels[indices])
        images = torch.empty((len(indices), self.px, self.px, 3), dtype=torch.uint8)
        crops, autoaugment = self.augmentation not in OF_WHOLE_IMAGES, self.augmentation == "crop-flip-autoaugment"
        for place, index in enumerate(indices.tolist()):
            image, found = self.first_decodable(index)
            labels[place] = int(self.reader.manifest.labels[found])
            if crops:
                image = CROP_FLIP[self.decoder](image, self.px, draws[place], autoaugment=autoaugment)
            images[place] = torch.as_tensor(image)
        if self.augmentation in ("shift", "shift-flip"):
            images = shift(images, draws)
        if self.augmentation == "shift-flip":
            images = flip(images, draws)
        return images.permute(0, 3, 1, 2), labels
