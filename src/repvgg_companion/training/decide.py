"""Decide at the first start of a training what its recipe leaves to the machine: precision, memory format, threads."""

import copy
import statistics
from dataclasses import replace

import torch
from torch import nn

from repvgg_companion.machine.torch_device import best_precision, is_out_of_memory
from repvgg_companion.training.decisions import Decisions
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner
from repvgg_companion.training.step_timing import step_on_random_images, time_in_turn


def decide(recipe: Recipe, network: nn.Module, device: torch.device, num_classes: int) -> Decisions:
    """The recipe's settings, with every `auto` resolved for this device. Leaves `network` as it is."""
    threads = recipe.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    precision = best_precision(device) if recipe.precision == "auto" else recipe.precision
    if recipe.memory_format != "auto":
        return Decisions(precision, recipe.memory_format, threads, device.type)
    channels_last = Decisions(precision, "channels_last", threads, device.type)
    try:
        seconds = probe_memory_formats(network, recipe, channels_last, device, num_classes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return channels_last  # The probe holds the network twice; the first step shows whether one fits.
    return replace(channels_last, memory_format=min(seconds, key=seconds.__getitem__), memory_format_step_s=seconds)


def probe_memory_formats(
    network: nn.Module, recipe: Recipe, decisions: Decisions, device: torch.device, num_classes: int
) -> dict[str, float]:
    """Median seconds of a step of one micro-batch in each memory format, measured in turn.

    Channels-last is the faster one for plain networks, but up to three times slower for grouped ones on some GPUs.
    """
    recipe = replace(recipe, global_batch_size=recipe.batch_norm_batch_size, compile=False, ema_decay=0.0)
    steps = {}
    for name in ("contiguous", "channels_last"):
        learner = Learner(
            copy.deepcopy(network),
            recipe,
            ProcessGroup(device),
            replace(decisions, memory_format=name),
            num_classes=num_classes,
            seed=0,
        )
        steps[name] = step_on_random_images(learner, num_classes)
    return {name: statistics.median(seconds) for name, seconds in time_in_turn(steps, device).items()}
