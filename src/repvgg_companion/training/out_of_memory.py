"""Explain an out-of-memory error, or the death of another process, in one sentence."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.torch_device import autocast, free_memory, is_out_of_memory
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.step import Learner


@contextlib.contextmanager
def explain_out_of_memory(learner: Learner, images: torch.Tensor) -> Iterator[None]:
    """Turn running out of memory in a step into a CompanionError that names the largest batch that fits."""
    failed = False
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    if failed:  # outside the handler: its traceback would keep the memory in use
        if learner.buckets is not None:
            learner.buckets.overlaps = False  # the other processes no longer take part in exchanges
        recipe = learner.recipe
        fits = largest_batch(learner, images[: recipe.batch_norm_batch_size])
        raise CompanionError(
            f"out of memory on {learner.group.device} with batch_norm_batch_size {recipe.batch_norm_batch_size} at "
            f"{recipe.input_px} px; "
            + (f"{fits} would fit: set it in the recipe" if fits else "not even 1 image fits: use a larger device")
        )


@contextlib.contextmanager
def explain_failures(group: ProcessGroup) -> Iterator[None]:
    """Turn running out of memory outside a step, and the death of another process, into a CompanionError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise CompanionError(
                f"out of memory on {group.device} outside a training step (weights, validation or a checkpoint); "
                "stop other programs that use its memory, or use a larger device"
            ) from None
        if group.size > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise CompanionError(
                f"process {group.rank} lost the others: one of the {group.size} died; read its message, then start "
                "the same command again to continue"
            ) from None
        raise


def largest_batch(learner: Learner, images: torch.Tensor) -> int:
    """Largest half, quarter, ... of `images` (uint8 [n, 3, px, px]) whose forward and backward pass fit; 0 if none."""
    size = len(images) // 2
    while size:
        learner.optimizer.forget_gradients()
        free_memory(learner.group.device.type)
        try:
            with autocast(learner.recipe.precision, learner.group.device):
                logits = learner.network(learner.normalized(images[:size]))
            nn.functional.cross_entropy(logits.float(), logits.argmax(1)).backward()
            return size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        logits = None
        size //= 2
    return 0
