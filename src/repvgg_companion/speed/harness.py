"""The one harness: networks in turn, round by round. Subjects go in, raw samples and what happened come out. No torch.

It knows nothing of networks or devices: a subject is a call, a clock takes its time. So the same code measures models,
single convolutions and the planted cases of the tests.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from repvgg_companion.errors import CompanionError
from repvgg_companion.speed.clocks import Clock

STABLE_PCT = 5.0
MOST_WARM_UP_CALLS = 200
DRIFT_CHECK_SAMPLES = 5


@dataclass
class Subject:
    """One thing to measure: `call` does one batch. `iterations` calls make one sample; the warm-up sets it."""

    name: str
    call: Callable[[], object]
    iterations: int = 1


@dataclass(frozen=True)
class Limits:
    """How long to warm up and how long a block lasts; the defaults of each kind of device are in `LIMITS`."""

    warm_up_seconds: float
    warm_up_calls: int
    block_seconds: float
    block_calls: int
    drift_pct: float
    spread_pct: float


LIMITS = {
    # On a CPU nothing is compiled or tuned at run time and one call is a sample; very short ones are timed in blocks.
    "cpu": Limits(0.0, 2, 0.010, 1, 5.0, 20.0),
    # At least 1 s and 50 calls to warm up, at least 5 calls a round, so 100 in 20 rounds.
    "cuda": Limits(1.0, 50, 0.050, 5, 2.0, 5.0),
}


@dataclass(frozen=True)
class Timing:
    """One timed block: which subject, in which round, at which place in it, seconds per call."""

    subject: str
    round: int
    position: int
    iterations: int
    seconds: float


@dataclass
class GroupResult:
    """All that one group gave: timings, the drift check, warm-up and the moments between which it ran."""

    timings: list[Timing] = field(default_factory=list)
    drift_check: list[Timing] = field(default_factory=list)
    warm_up_calls: dict[str, int] = field(default_factory=dict)
    unstable: list[str] = field(default_factory=list)

    def seconds(self, subject: str) -> list[float]:
        """The timed samples of one subject in the order of the rounds."""
        return [timing.seconds for timing in self.timings if timing.subject == subject]

    def drift_pct(self) -> float:
        """By how many percent the first subject, measured again last, differs from its median in the rounds."""
        if not self.drift_check:
            return 0.0
        before = float(np.median(self.seconds(self.drift_check[0].subject)))
        after = float(np.median([timing.seconds for timing in self.drift_check]))
        return 100 * (after / before - 1)


def warm_up(subject: Subject, clock: Clock, limits: Limits) -> tuple[int, bool]:
    """Run a subject until its times are stable and set its `iterations`; returns the calls made and whether it is.

    Stable: the latest time is within 5 % of the median of the three before it, or of the shortest. Stops after 200
    calls or ten times the least warm-up, because a machine that is never quiet must not hold the programme up.
    """
    times: list[float] = []
    started = time.monotonic()
    longest = max(10 * limits.warm_up_seconds, 2.0)
    stable = False
    while True:
        times.append(clock.time_block(subject.call, 1))
        elapsed = time.monotonic() - started
        if len(times) >= limits.warm_up_calls and elapsed >= limits.warm_up_seconds:
            stable = _stable(times)
            if stable or elapsed > longest or len(times) >= max(MOST_WARM_UP_CALLS, limits.warm_up_calls):
                break
    typical = float(np.median(times[-3:]))
    subject.iterations = max(limits.block_calls, round(limits.block_seconds / typical), 1)
    return len(times), stable


def _stable(times: Sequence[float]) -> bool:
    latest, earlier = times[-1], times[-4:-1]
    if not earlier:
        return False
    near = (float(np.median(earlier)), min(times[:-1]))
    return any(abs(latest / value - 1) <= STABLE_PCT / 100 for value in near)


def measure_group(
    subjects: Sequence[Subject],
    clock: Clock,
    *,
    rounds: int,
    limits: Limits,
    seed: int = 0,
    on_round: Callable[[], None] = lambda: None,
) -> GroupResult:
    """Warm every subject up, then measure all of them once in each round; the first is measured again last.

    The order inside a round is a random permutation that is rotated by one from round to round, so that every subject
    takes every place equally often and none always follows the same neighbour's heat. Raises CompanionError where two
    subjects have one name.
    """
    names = [subject.name for subject in subjects]
    if len(set(names)) != len(names):
        raise CompanionError(f"a group measures {', '.join(names)}: one name stands for two subjects; rename one")
    result = GroupResult()
    for subject in subjects:
        result.warm_up_calls[subject.name], stable = warm_up(subject, clock, limits)
        if not stable:
            result.unstable.append(subject.name)
    generator = random.Random(seed)
    for number in range(rounds):
        if number % len(subjects) == 0:
            order = generator.sample(range(len(subjects)), len(subjects))
        else:
            order = [*order[1:], order[0]]
        for position, index in enumerate(order):
            result.timings.append(_timed(subjects[index], clock, number, position))
        on_round()
    for number in range(DRIFT_CHECK_SAMPLES):
        # Another one before it, as in the rounds: alone it would find its weights in the caches and seem to drift.
        if len(subjects) > 1:
            subjects[1 + number % (len(subjects) - 1)].call()
        result.drift_check.append(_timed(subjects[0], clock, rounds + number, 0))
    clock.synchronize()
    return result


def measure_in_sequence(
    subjects: Sequence[Subject],
    clock: Clock,
    *,
    warm_up_batches: int,
    timed_batches: int,
    on_round: Callable[[], None] = lambda: None,
) -> GroupResult:
    """The paper's protocol: one network after the other, a fixed number of batches to warm up, a fixed number timed.

    Every timed batch is one sample (section 4.1 of the paper, which gives their mean). `on_round` follows a network.
    """
    result = GroupResult()
    for position, subject in enumerate(subjects):
        clock.time_block(subject.call, warm_up_batches)
        result.warm_up_calls[subject.name] = warm_up_batches
        for number, seconds in enumerate(clock.time_each(subject.call, timed_batches)):
            result.timings.append(Timing(subject.name, number, position, 1, seconds))
        on_round()
    clock.synchronize()
    return result


def _timed(subject: Subject, clock: Clock, number: int, position: int) -> Timing:
    seconds = clock.time_block(subject.call, subject.iterations)
    return Timing(subject.name, number, position, subject.iterations, seconds)
