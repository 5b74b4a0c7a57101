"""What decides bits and depends on the machine: decided once, at the first start, then stored in the state.

Recipe and device in; precision, memory format and number of threads out.
"""

import time
from typing import Any

import torch
from torch import nn

from repvgg_companion.machine.torch_device import autocast, best_precision, is_out_of_memory, synchronize
from repvgg_companion.training.recipe import Recipe

PROBE_STEPS = 5


def decide(recipe: Recipe, network: nn.Module, device: torch.device, num_classes: int) -> dict[str, Any]:
    """The settings that the recipe leaves to the machine, as stored in state.json.

    Keys: precision (fp32, bf16, fp16), memory_format (contiguous, channels_last), threads, device_type, and where the
    memory format was measured, the seconds per step of both. `network` is left in its state and on its device.
    """
    threads = recipe.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    precision = recipe.precision if recipe.precision != "auto" else best_precision(device)
    decided: dict[str, Any] = {"precision": precision, "threads": threads, "device_type": device.type}
    if recipe.memory_format != "auto":
        return decided | {"memory_format": recipe.memory_format}
    try:
        seconds = probe_memory_formats(network, recipe, precision, device, num_classes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The probe holds the network twice; whether one fits is for the first step to find out.
        return decided | {"memory_format": "channels_last"}
    return decided | {"memory_format": min(seconds, key=seconds.get), "memory_format_step_s": seconds}


def probe_memory_formats(
    network: nn.Module, recipe: Recipe, precision: str, device: torch.device, num_classes: int
) -> dict[str, float]:
    """Median seconds of a forward and backward pass in each memory format, measured in turn.

    Channels-last is the faster one for plain networks, but up to three times slower for grouped ones on some GPUs.
    """
    import copy
    import statistics

    size, px = recipe.batch_norm_batch_size, recipe.input_px
    labels = torch.arange(size, device=device) % num_classes
    trials = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        images = torch.rand(size, 3, px, px, device=device).contiguous(memory_format=layout)
        trials[name] = (copy.deepcopy(network).to(memory_format=layout), images, [])

    for number in range(PROBE_STEPS + 2):
        for trial, images, seconds in trials.values():
            synchronize(device)
            start = time.perf_counter()
            with autocast(precision, device):
                outputs = trial(images)
                if isinstance(outputs, tuple):  # segmentation: one class for all pixels costs the same as a map
                    outputs = sum(part.mean((2, 3)) for part in outputs)
                loss = nn.functional.cross_entropy(outputs, labels)
            loss.backward()
            synchronize(device)
            if number >= 2:  # the first passes choose kernels and allocate memory
                seconds.append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, (_, _, seconds) in trials.items()}
