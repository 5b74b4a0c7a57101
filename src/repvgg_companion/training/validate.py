"""Validation after an epoch: a network and a manifest in, the number of right answers out, every image counted once."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from repvgg_companion.data.batches.evaluation_input import evaluation_batches
from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.data.batches.segmentation_input import whole_images
from repvgg_companion.data.decode import UndecodableImages
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import Protocol
from repvgg_companion.machine.torch_device import autocast
from repvgg_companion.models.pixel_classes import class_counts, slide
from repvgg_companion.training.job.processes import World

BATCH_IMAGES = 100
"""Images per batch, for segmentation 1; the batches are the same for any number of processes, and so is every logit."""


def count_right_answers(
    network: nn.Module,
    manifest: Manifest,
    protocol: Protocol,
    world: World,
    *,
    precision: str,
    channels_last: bool,
    workers: int,
    undecodable: str,
    between_batches: Callable[[], None],
) -> float:
    """The number of images of `manifest` whose top-1 answer is right, summed over all processes.

    For segmentation an image counts as its share of labelled pixels that are right. Each process takes a contiguous run
    of whole batches. `between_batches` is called equally often in every process; it may raise to end the validation
    early. An image that cannot be decoded counts as wrong under the policy `undecodable="count"`. Leaves `network` in
    the mode it was in.
    """
    classifies = manifest.maps is None
    batch_images = BATCH_IMAGES if classifies else 1
    total = -(-len(manifest) // batch_images)
    start, stop = (place * total // world.size * batch_images for place in (world.rank, world.rank + 1))
    part = range(start, min(stop, len(manifest)))

    def answer(images: torch.Tensor) -> torch.Tensor:
        inputs = normalize(images, device=world.device, channels_last=channels_last)
        with autocast(precision, world.device):
            return (network(inputs) if classifies else slide(network, inputs, protocol)).argmax(1)

    unread = UndecodableImages(undecodable)
    if classifies:
        counts = _right_images(answer, manifest, part, protocol, workers, unread)
    else:
        counts = _right_shares(answer, manifest, part, unread)
    right = torch.zeros((), dtype=torch.float64, device=world.device)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            for _ in range(-(-total // world.size)):
                between_batches()
                right += next(counts, 0)
    finally:
        network.train(was_training)
    return float(world.sum(right).item())


def _right_images(
    answer: Callable[[torch.Tensor], torch.Tensor],
    manifest: Manifest,
    part: range,
    protocol: Protocol,
    workers: int,
    unread: UndecodableImages,
) -> Iterator[torch.Tensor]:
    """The number of right answers in each batch of the images `part`."""
    batches = evaluation_batches(
        manifest,
        protocol,
        batch_size=BATCH_IMAGES,
        workers=workers,
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


def _right_shares(
    answer: Callable[[torch.Tensor], torch.Tensor], manifest: Manifest, part: range, unread: UndecodableImages
) -> Iterator[torch.Tensor | int]:
    """The share of right pixels of each of the images `part`; 0 for one that cannot be decoded."""
    for pair in whole_images(manifest, start=part.start, stop=part.stop, undecodable=unread):
        if pair is None:
            yield 0
            continue
        image, labels = pair
        answers = answer(image)
        agreed, _, labelled = class_counts(answers, labels.to(answers.device), manifest.num_classes).sum(1)
        yield agreed / labelled.clamp(min=1)
