"""Validation after an epoch: a network and a manifest in, the number of right answers out, every image counted once."""

from collections.abc import Callable

import torch
from torch import nn

from repvgg_companion.data.decode import UndecodableImages
from repvgg_companion.data.evaluation_input import evaluation_batches
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.normalize import normalize
from repvgg_companion.data.protocols import Protocol
from repvgg_companion.training.decide import autocast
from repvgg_companion.training.processes import World

BATCH_IMAGES = 100
"""Images per batch; the batches are the same for any number of processes, and so is every logit."""


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
    if manifest.maps is not None:
        options = {"precision": precision, "channels_last": channels_last, "undecodable": undecodable}
        return _right_pixels(network, manifest, protocol, world, between_batches=between_batches, **options)
    total = -(-len(manifest) // BATCH_IMAGES)
    own = range(world.rank * total // world.size, (world.rank + 1) * total // world.size)
    longest = -(-total // world.size)
    right = torch.zeros((), dtype=torch.int64, device=world.device)
    unread = UndecodableImages(undecodable)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            batches = evaluation_batches(
                manifest,
                protocol,
                batch_size=BATCH_IMAGES,
                workers=workers,
                start=own.start * BATCH_IMAGES,
                stop=min(own.stop * BATCH_IMAGES, len(manifest)),
                undecodable=unread,
            )
            for number in range(longest):
                between_batches()
                batch = next(batches, None)
                if batch is None:
                    continue
                images, labels = batch
                first = (own.start + number) * BATCH_IMAGES
                for index in unread.found:
                    if first <= index < first + len(labels):
                        labels[index - first] = -1
                inputs = normalize(images, device=world.device, channels_last=channels_last)
                with autocast(precision, world.device):
                    answers = network(inputs).argmax(1)
                right += (answers == labels.to(world.device, non_blocking=True)).sum()
    finally:
        network.train(was_training)
    return int(world.sum(right).item())


def _right_pixels(
    network: nn.Module,
    manifest: Manifest,
    protocol: Protocol,
    world: World,
    *,
    precision: str,
    channels_last: bool,
    undecodable: str,
    between_batches: Callable[[], None],
) -> float:
    """The sum over the images of the share of right pixels, image by image, over all processes."""
    from repvgg_companion.data.segmentation_input import whole_images
    from repvgg_companion.models.segmentation import class_counts, slide

    total = len(manifest)
    own = range(world.rank * total // world.size, (world.rank + 1) * total // world.size)
    shares = torch.zeros((), dtype=torch.float64, device=world.device)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            images = whole_images(manifest, start=own.start, stop=own.stop, undecodable=UndecodableImages(undecodable))
            for _ in range(-(-total // world.size)):
                between_batches()
                pair = next(images, None)
                if pair is None:
                    continue
                image, labels = pair
                inputs = normalize(image, device=world.device, channels_last=channels_last)
                with autocast(precision, world.device):
                    answers = slide(network, inputs, protocol).argmax(1)
                agreed, _, labelled = class_counts(answers, labels.to(world.device), network.num_classes).sum(1)
                shares += agreed / labelled.clamp(min=1)
    finally:
        network.train(was_training)
    return float(world.sum(shares).item())
