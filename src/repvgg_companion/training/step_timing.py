"""Time training steps: a step on random images, and the seconds of steps that run in turn."""

import time
from collections.abc import Callable, Mapping

import torch

from repvgg_companion.machine.torch_device import synchronize
from repvgg_companion.training.step import Learner, StepSums

REPEATS = 5
WARM_UP = 2
"""Calls that are not counted: the first ones choose kernels and allocate memory."""
RATE = 1e-3
Clock = Callable[[], float]


def step_on_random_images(learner: Learner, num_classes: int) -> Callable[[], None]:
    """A call that takes one optimizer step of `learner` on random images of its recipe's size and batch."""
    size, px, device = learner.recipe.global_batch_size, learner.recipe.input_px, learner.group.device
    images = torch.randint(0, 256, (size, 3, px, px), dtype=torch.uint8)
    labels = torch.arange(size) % num_classes
    if learner.segments:
        labels = labels[:, None, None].expand(-1, px, px)
    sums = StepSums(torch.zeros((), device=device), torch.zeros((), dtype=torch.float64, device=device))
    return lambda: learner.step(images, labels, step=0, rate=RATE, sums=sums)


def time_in_turn(
    steps: Mapping[str, Callable[[], None]], device: torch.device, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of `REPEATS` calls of each step; the steps run in turn, so that a slower phase hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + REPEATS):
        for name, step in steps.items():
            spent = timed(step, device, clock)
            if number >= WARM_UP:
                seconds[name].append(spent)
    return seconds


def timed(work: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds from the start of `work` until the device has finished it."""
    synchronize(device)
    start = clock()
    work()
    synchronize(device)
    return clock() - start
