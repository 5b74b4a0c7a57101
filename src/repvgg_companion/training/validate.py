"""Validation after an epoch: the number of right answers, every image counted once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from repvgg_companion.data.batches.evaluation_input import evaluation_batches
from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.data.batches.segmentation_input import whole_images
from repvgg_companion.data.decode import UndecodableImages
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol, Protocol, SlidingProtocol
from repvgg_companion.machine.torch_device import autocast
from repvgg_companion.models.pixel_classes import class_counts, slide
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.recipe import Recipe

BATCH_IMAGES = 100
"""Images per batch, 1 for segmentation. The batches, so also the logits, are the same for any number of processes."""
Answer = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Validation:
    """The validation images, and how they are read.

    A sliding `protocol` segments, any other classifies. Under the policy `undecodable="count"` an image that cannot be
    decoded counts as wrong.
    """

    manifest: Manifest
    protocol: Protocol
    workers: int
    undecodable: str

    @property
    def classifies(self) -> bool:
        """Whether images have one label each, not a label map."""
        return isinstance(self.protocol, EvaluationProtocol)

    @property
    def batch_images(self) -> int:
        """Images per batch."""
        return BATCH_IMAGES if self.classifies else 1

    @property
    def batch_count(self) -> int:
        """Batches over all processes."""
        return -(-len(self.manifest) // self.batch_images)

    def part(self, group: ProcessGroup) -> range:
        """The images of this process: a contiguous run of whole batches."""
        start, stop = (
            place * self.batch_count // group.size * self.batch_images for place in (group.rank, group.rank + 1)
        )
        return range(start, min(stop, len(self.manifest)))


def count_right_answers(
    network: nn.Module,
    validation: Validation,
    recipe: Recipe,
    group: ProcessGroup,
    between_batches: Callable[[], None],
) -> float:
    """The number of images whose top-1 answer is right, summed over all processes.

    In segmentation an image counts as its share of labelled pixels that are right. `between_batches` is called equally
    often in every process; it may raise to end the validation early. `network` keeps the mode it was in.
    """
    protocol = validation.protocol

    def answer(images: torch.Tensor) -> torch.Tensor:
        inputs = normalize(images, device=group.device, channels_last=recipe.channels_last)
        with autocast(recipe.precision, group.device):
            logits = slide(network, inputs, protocol) if isinstance(protocol, SlidingProtocol) else network(inputs)
        return logits.argmax(1)

    part = validation.part(group)
    if isinstance(protocol, SlidingProtocol):
        counts: Iterator[torch.Tensor | int] = _right_shares(answer, validation, part)
    else:
        counts = _right_images(answer, validation, protocol, part)
    right = torch.zeros((), dtype=torch.float64, device=group.device)
    modes = {module: module.training for module in network.modules()}  # frozen stages stay in eval mode
    network.eval()
    try:
        with torch.no_grad():
            for _ in range(-(-validation.batch_count // group.size)):
                between_batches()
                right += next(counts, 0)
    finally:
        for module, training in modes.items():
            module.training = training
    return float(group.sum(right).item())


def _right_images(
    answer: Answer, validation: Validation, protocol: EvaluationProtocol, part: range
) -> Iterator[torch.Tensor]:
    """The number of right answers in each batch of the images `part`."""
    unread = UndecodableImages(validation.undecodable)
    batches = evaluation_batches(
        validation.manifest,
        protocol,
        batch_size=validation.batch_images,
        workers=validation.workers,
        start=part.start,
        stop=part.stop,
        undecodable=unread,
    )
    first = part.start
    for images, labels in batches:
        for index in unread.found:
            if first <= index < first + len(labels):
                labels[index - first] = -1
        answers = answer(images)
        yield (answers == labels.to(answers.device, non_blocking=True)).sum()
        first += len(labels)


def _right_shares(answer: Answer, validation: Validation, part: range) -> Iterator[torch.Tensor | int]:
    """The share of right pixels of each of the images `part`; 0 for one that cannot be decoded."""
    unread = UndecodableImages(validation.undecodable)
    for pair in whole_images(validation.manifest, start=part.start, stop=part.stop, undecodable=unread):
        if pair is None:
            yield 0
            continue
        image, labels = pair
        answers = answer(image)
        counts = class_counts(answers, labels.to(answers.device), validation.manifest.num_classes)
        agreed, _, labelled = counts.sum(1)
        yield agreed / labelled.clamp(min=1)
