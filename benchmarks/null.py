"""The harness of `measure-speed` on real work, where the answer is known: a network against itself, and a slow-down.

`python benchmarks/null.py [--groups 200]`. The 95 % intervals of a network against itself should hold 1 in about 95 %
of the groups. The slow-down is 5 %, in seconds of this process's processor time.
"""

import argparse
import time
from collections.abc import Callable

import torch

from interleaved import print_machine
from repvgg_companion.speed.clocks import CpuClock
from repvgg_companion.speed.harness import Limits, Rounds, Subject, measure_group
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.speed.statistics import Interval, speed_ratio

QUICK = Limits(0.0, 2, 0.0, 1, 5.0, 20.0)
PLAIN_S, SLOWED_S = 0.00200, 0.00210


class ProcessorClock(CpuClock):
    """Processor time, which other processes on the machine do not lengthen."""

    def time_block(self, call, iterations):  # noqa: D102
        start = time.thread_time_ns()
        for _ in range(iterations):
            call()
        return (time.thread_time_ns() - start) / 1e9 / iterations


def ratio(first: Callable, second: Callable, clock: CpuClock, rounds: Rounds) -> Interval:
    """The speed of the second against the first, with its interval."""
    result = measure_group([Subject("first", first), Subject("second", second)], clock, rounds)
    return speed_ratio(result.seconds("first"), result.seconds("second"))


def spin(seconds: float) -> Callable[[], None]:
    """Work that takes so many seconds of processor time."""

    def call() -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    return call


def main() -> None:
    """Print how many intervals hold 1, and the ratio of the slow-down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=200)
    groups = parser.parse_args().groups
    print_machine("torch")
    torch.set_num_threads(1)
    module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build()
    images = torch.randn(1, 3, 32, 32)
    holds = 0
    with torch.inference_mode():
        for number in range(groups):
            rounds = Rounds(20, QUICK, number)
            same = ratio(lambda: module(images), lambda: module(images), CpuClock(), rounds)
            holds += same.low <= 1 <= same.high
    print(f"\na network against itself: {holds} of {groups} intervals hold 1")
    slowed = ratio(spin(SLOWED_S), spin(PLAIN_S), ProcessorClock(), Rounds(40, QUICK))
    print(f"slowed by 5 %: {slowed.value:.4f} [{slowed.low:.4f}, {slowed.high:.4f}]; {PLAIN_S / SLOWED_S:.4f} is right")


if __name__ == "__main__":
    main()
