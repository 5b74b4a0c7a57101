"""Decide at the first start of a training what its recipe leaves open: precision, memory format, threads."""

import copy
import statistics
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from repvgg_companion.machine.torch_device import best_precision, is_out_of_memory
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner
from repvgg_companion.training.step_timing import step_on_random_images, time_in_turn


def decide(recipe: Recipe, network: nn.Module, device: torch.device, num_classes: int) -> dict[str, Any]:
    """The decisions, as state.json stores them and `Recipe.decided` takes them. Leaves `network` as it is.

    Keys: precision (fp32, bf16, fp16), memory_format (contiguous, channels_last), threads, device_type, and, if the
    memory format was measured, the seconds of a step in both.
    """
    threads = recipe.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    precision = best_precision(device) if recipe.precision == "auto" else recipe.precision
    decided: dict[str, Any] = {"precision": precision, "threads": threads, "device_type": device.type}
    if recipe.memory_format != "auto":
        return decided | {"memory_format": recipe.memory_format}
    try:
        seconds = probe_memory_formats(network, recipe, decided, device, num_classes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The probe holds the network twice; the first step shows whether one fits.
        return decided | {"memory_format": "channels_last"}
    return decided | {"memory_format": min(seconds, key=seconds.__getitem__), "memory_format_step_s": seconds}


def probe_memory_formats(
    network: nn.Module, recipe: Recipe, decided: dict[str, Any], device: torch.device, num_classes: int
) -> dict[str, float]:
    """Median seconds of a step of one micro-batch in each memory format, measured in turn.

    Channels-last is the faster one for plain networks, but up to three times slower for grouped ones on some GPUs.
    """
    recipe = replace(recipe, global_batch_size=recipe.batch_norm_batch_size, compile=False, ema_decay=0.0)
    steps = {}
    for memory_format in ("contiguous", "channels_last"):
        tried = recipe.decided(decided | {"memory_format": memory_format})
        learner = Learner(copy.deepcopy(network), tried, ProcessGroup(device), num_classes=num_classes, seed=0)
        steps[memory_format] = step_on_random_images(learner, num_classes)
    return {name: statistics.median(seconds) for name, seconds in time_in_turn(steps, device).items()}
