"""Out of memory: the failed step comes in, one sentence that names the batch that would fit comes out."""

import contextlib
import gc
from collections.abc import Iterator

import torch
from torch import nn

from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.torch_device import autocast, is_out_of_memory
from repvgg_companion.training.job.processes import World
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner


@contextlib.contextmanager
def explain_out_of_memory(learner: Learner, recipe: Recipe, images: torch.Tensor) -> Iterator[None]:
    """Turn running out of memory into a CompanionError that names the largest batch that fits; pass the rest on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    else:
        failed = False
    if failed:  # outside the handler, whose traceback would hold on to the memory
        if learner.buckets is not None:
            learner.buckets.overlaps = False  # nobody answers an exchange any more
        fits = largest_batch(learner, images[: recipe.batch_norm_batch_size])
        raise CompanionError(
            f"out of memory on {learner.world.device} with batch_norm_batch_size {recipe.batch_norm_batch_size} at "
            f"{recipe.input_px} px; "
            + (f"{fits} would fit: set it in the recipe" if fits else "not even 1 image fits: use a larger device")
        )


@contextlib.contextmanager
def explain_failures(world: World) -> Iterator[None]:
    """Turn out-of-memory outside a training step, and the death of another process, into a CompanionError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise CompanionError(
                f"out of memory on {world.device} outside a training step (weights, validation or a checkpoint); end "
                "what else uses its memory, or use a larger device"
            ) from None
        if world.size > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise CompanionError(
                f"process {world.rank} lost the others: one of the {world.size} died; read what it said, then start "
                "the same command again to continue"
            ) from None
        raise


def largest_batch(learner: Learner, images: torch.Tensor) -> int:
    """Largest half, quarter, ... of `images` (uint8 [n, 3, px, px]) whose forward and backward pass fit; 0 if none."""
    size = len(images) // 2
    while size:
        learner.optimizer.forget_gradients()
        gc.collect()
        if learner.world.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            inputs = normalize(images[:size], device=learner.world.device, channels_last=learner.channels_last)
            with autocast(learner.precision, learner.world.device):
                logits = learner.network(inputs)
            nn.functional.cross_entropy(logits.float(), logits.argmax(1)).backward()
            return size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        inputs = logits = None
        size //= 2
    return 0
