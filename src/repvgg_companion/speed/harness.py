"""The timing loop: subjects are measured in turn, round by round. No torch.

It knows nothing about networks or devices: a subject is a call, and a clock times it. So the same code measures models,
single convolutions, the device's ceilings and the planted cases of the tests.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from repvgg_companion.errors import CompanionError
from repvgg_companion.speed.alarm import stop_if_due
from repvgg_companion.speed.clocks import Clock

STABLE_PCT = 5.0
MOST_WARM_UP_CALLS = 200
DRIFT_CHECK_SAMPLES = 5
LONG_CALL_S = 0.020
"""A call that takes longer is a block of its own."""
WARM_CALL_S = 0.2
"""Without a least warm-up time, a longer call counts as warm after the call that checked its output."""


@dataclass
class Subject:
    """One thing to measure: `call` does one batch. `iterations` calls make one sample; the warm-up sets it."""

    name: str
    call: Callable[[], object]
    iterations: int = 1
    checked_s: float = 0.0
    """Seconds of the call that checked the output; 0 if there was none."""


@dataclass(frozen=True)
class Limits:
    """How long to warm up, how long a block lasts, and what flags a row; `LIMITS` has those of each kind of device."""

    warm_up_seconds: float
    warm_up_calls: int
    block_seconds: float
    block_calls: int
    drift_pct: float = 5.0
    spread_pct: float = 20.0


LIMITS = {
    # On a CPU nothing is compiled or tuned at run time and one call is a sample; very short ones are timed in blocks.
    "cpu": Limits(0.0, 2, 0.010, 1),
    # At least 1 s and 3 calls to warm up; at least 5 calls a round for short calls, so 100 in 20 rounds. At its power
    # limit the clock of an H100 moves by some percent, depending on what ran before: the intervals show it.
    "cuda": Limits(1.0, 3, 0.050, 5),
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
    """All results of one group: timings, the drift check, warm-up and the moments between which it ran."""

    timings: list[Timing] = field(default_factory=list)
    drift_check: list[Timing] = field(default_factory=list)
    warm_up_calls: dict[str, int] = field(default_factory=dict)
    warm_up_s: dict[str, float] = field(default_factory=dict)
    unstable: list[str] = field(default_factory=list)

    def seconds(self, subject: str) -> list[float]:
        """The timed samples of one subject in the order of the rounds."""
        return [timing.seconds for timing in self.timings if timing.subject == subject]

    def drift_pct(self) -> float:
        """Drift in percent: the first subject, measured again at the end, against its median in the rounds."""
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
    if limits.warm_up_seconds == 0 and subject.checked_s > WARM_CALL_S:
        subject.iterations = 1
        return 0, True
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
    if typical > LONG_CALL_S:
        subject.iterations = 1
    return len(times), stable


def _stable(times: Sequence[float]) -> bool:
    latest, earlier = times[-1], times[-4:-1]
    if not earlier:
        return False
    near = (float(np.median(earlier)), min(times[:-1]))
    return any(abs(latest / value - 1) <= STABLE_PCT / 100 for value in near)


@dataclass(frozen=True)
class Rounds:
    """How many rounds, within which limits, in which random order; `after_each` is called when a round has ended.

    After `least` rounds no round is begun that would end later than `seconds` after the first began, or after the
    moment `until` of `time.monotonic`.
    """

    count: int
    limits: Limits
    seed: int = 0
    after_each: Callable[[], None] = lambda: None
    least: int = 1
    seconds: float = math.inf
    until: float = math.inf

    def is_last(self, done: int, began: float) -> bool:
        """Whether no other round fits after `done` rounds since the moment `began`."""
        end = min(began + self.seconds, self.until)
        now = time.monotonic()
        return done >= self.least and now + (now - began) / done > end


def measure_group(subjects: Sequence[Subject], clock: Clock, rounds: Rounds) -> GroupResult:
    """Warm every subject up, then measure all of them once in each round; the first is measured again last.

    The order inside a round is a random permutation that is rotated by one from round to round, so that every subject
    takes every place equally often and none always runs after the same other one. Raises CompanionError if two
    subjects have the same name.
    """
    names = [subject.name for subject in subjects]
    if len(set(names)) != len(names):
        raise CompanionError(f"a group measures {', '.join(names)}: two subjects have the same name; rename one")
    result = GroupResult()
    for subject in subjects:
        began = time.monotonic()
        result.warm_up_calls[subject.name], stable = warm_up(subject, clock, rounds.limits)
        result.warm_up_s[subject.name] = time.monotonic() - began
        if not stable:
            result.unstable.append(subject.name)
    generator = random.Random(rounds.seed)
    began, done = time.monotonic(), 0
    while done < rounds.count:
        number = done
        if number % len(subjects) == 0:
            order = generator.sample(range(len(subjects)), len(subjects))
        else:
            order = [*order[1:], order[0]]
        for position, index in enumerate(order):
            result.timings.append(_timed(subjects[index], clock, number, position))
        rounds.after_each()
        done += 1
        if rounds.is_last(done, began):
            break
    for number in range(DRIFT_CHECK_SAMPLES if done >= DRIFT_CHECK_SAMPLES else 1):
        # Run another subject first, as in the rounds: otherwise its weights would be in the caches and it would seem to
        # drift.
        if len(subjects) > 1 and (number or result.timings[-1].subject == subjects[0].name):
            subjects[1 + number % (len(subjects) - 1)].call()
        result.drift_check.append(_timed(subjects[0], clock, done + number, 0))
    clock.synchronize()
    return result


def measure_in_sequence(
    subjects: Sequence[Subject], clock: Clock, batches: int, after_each: Callable[[], None] = lambda: None
) -> GroupResult:
    """The paper's protocol: one network after the other, `batches` to warm up, as many timed.

    Every timed batch is one sample (section 4.1 of the paper gives their mean). `after_each` is called after a network.
    """
    result = GroupResult()
    for position, subject in enumerate(subjects):
        clock.time_block(subject.call, batches)
        result.warm_up_calls[subject.name] = batches
        for number, seconds in enumerate(clock.time_each(subject.call, batches)):
            result.timings.append(Timing(subject.name, number, position, 1, seconds))
        after_each()
    clock.synchronize()
    return result


def _timed(subject: Subject, clock: Clock, number: int, position: int) -> Timing:
    stop_if_due()
    seconds = clock.time_block(subject.call, subject.iterations)
    return Timing(subject.name, number, position, subject.iterations, seconds)
