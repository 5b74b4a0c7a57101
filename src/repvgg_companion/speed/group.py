"""One group under one condition: builds its networks, measures them in turn and frees them."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import CpuMoment, busy_flags, foreign_share
from repvgg_companion.machine.device import machine_state
from repvgg_companion.machine.nvml import gpu_flags
from repvgg_companion.machine.torch_device import free_memory
from repvgg_companion.speed.alarm import stop_if_due
from repvgg_companion.speed.backends import forget_compiled
from repvgg_companion.speed.ceilings import ceiling_subjects
from repvgg_companion.speed.clocks import clock_for, require_synchronised
from repvgg_companion.speed.group_record import CEILING_NAMES, CeilingWork, GroupRecord, MeasuredNetwork
from repvgg_companion.speed.harness import GroupResult, Rounds, Subject, Timing, measure_group, measure_in_sequence
from repvgg_companion.speed.networks import Measurable
from repvgg_companion.speed.preparation import Known, failure, is_too_slow, prepared
from repvgg_companion.speed.programme import Method, SpeedGroup
from repvgg_companion.speed.samples import CEILING, DRIFT_CHECK, TIMED, Sample
from repvgg_companion.speed.speed_settings import PAPER_BATCHES


@dataclass(frozen=True)
class Attempt:
    """One measurement of a group: the number of the process start, what happens after a round, when to end."""

    start: int = 0
    on_round: Callable[[], None] = lambda: None
    until: float = math.inf
    """A moment of `time.monotonic`; the least rounds are measured in every case."""


@torch.inference_mode()
def measure(
    group: SpeedGroup,
    method: Method,
    attempt: Attempt = Attempt(),
    *,
    known: Known | None = None,
) -> GroupRecord:
    """Measure one group in this process.

    `known` holds what earlier groups of the run have found: a network is probed once in a run, or its samples would
    fall into two rows.
    """
    entered = time.monotonic()
    known = known or Known()
    members, subjects = [], []
    for network in _worth_measuring(group, method):
        stop_if_due()
        member, subject = prepared(network, group.condition, method, known)
        members.append(member)
        if subject is not None:
            subjects.append(subject)
    states = {"before": machine_state(method.kind)}
    began = CpuMoment.now()
    result, ceiling = GroupResult(), None
    if subjects:
        try:
            check_clock(subjects[0], method.kind)
            ceiling = _add_ceilings(subjects, group, method)
            watch = _Watch(subjects[0], method, attempt.on_round, states)
            result = _timed(subjects, group, method, watch.after_round, attempt)
        except (RuntimeError, CompanionError) as error:
            # No network can be named, for each ran alone before; so none of the group has times.
            reason = str(error) if isinstance(error, CompanionError) else failure(error, group.condition)
            for member in members:
                member.reason = member.reason or f"{reason} while the group was measured"
    share = foreign_share(began, CpuMoment.now())
    states["after"] = machine_state(method.kind)
    for member in members:
        member.warm_up_calls = result.warm_up_calls.get(member.name, 0)
        member.warm_up_stable = member.name not in result.unstable
        if member.name in result.warm_up_s:
            member.phases_s["warm-up"] = result.warm_up_s[member.name]
            timings = (timing for timing in result.timings if timing.subject == member.name)
            member.phases_s["rounds"] = sum(timing.seconds * timing.iterations for timing in timings)
    subjects.clear()
    forget_compiled()
    free_memory(method.kind)
    flags = [*gpu_flags(*states.values()), *busy_flags(share)]
    return GroupRecord(
        group=group.name,
        start=attempt.start,
        condition=asdict(group.condition),
        members=members,
        samples=_samples(group, members, result, attempt.start),
        drift_pct=result.drift_pct(),
        foreign_share=share,
        flags=flags,
        readings=states,
        seconds=time.monotonic() - entered,
        ceiling=ceiling,
    )


def _worth_measuring(group: SpeedGroup, method: Method) -> tuple[Measurable, ...]:
    """The networks of a group, without its anchor if that is the only one fast enough: other groups measure it."""
    anchor, *others = group.networks
    slow = [is_too_slow(network, group.condition, method) for network in others]
    alone = bool(slow) and all(slow) and not is_too_slow(anchor, group.condition, method)
    return tuple(others) if alone else group.networks


def check_clock(subject: Subject, kind: str) -> None:
    """Raise CompanionError if the device's clock stops before the work has ended; the CPU's cannot."""
    if kind == "cuda":
        require_synchronised(clock_for(kind), subject.call, torch.cuda.synchronize)


def _add_ceilings(subjects: list[Subject], group: SpeedGroup, method: Method) -> CeilingWork | None:
    if not method.roofline:
        return None
    try:
        ceiling, more = ceiling_subjects(group.condition.precision, method.kind)
    except torch.AcceleratorError:
        raise
    except RuntimeError:  # a CPU without the instructions of a precision computes in it, but has no fused convolution
        return None
    subjects += more
    return ceiling


class _Watch:
    """Reads the machine's state in the middle of the rounds, on a GPU while it is at work."""

    def __init__(self, subject: Subject, method: Method, on_round: Callable[[], None], states: dict) -> None:
        self.subject, self.method, self.on_round, self.states = subject, method, on_round, states
        self.left = max(min(method.rounds, method.least_rounds) // 2, 1)

    def after_round(self) -> None:
        """Count a round; after the middle one read the state."""
        self.on_round()
        self.left -= 1
        if self.left == 0:
            if self.method.kind == "cuda":
                for _ in range(max(self.subject.iterations, 1)):
                    self.subject.call()
            self.states["during"] = machine_state(self.method.kind)


def _timed(
    subjects: list[Subject], group: SpeedGroup, method: Method, after_round: Callable[[], None], attempt: Attempt
) -> GroupResult:
    clock = clock_for(method.kind)
    if group.condition.protocol == "paper":
        return measure_in_sequence(subjects, clock, PAPER_BATCHES, after_round)
    rounds = Rounds(
        method.rounds,
        method.limits,
        method.seed + attempt.start,
        after_round,
        least=method.least_rounds,
        seconds=method.group_seconds or math.inf,
        until=attempt.until,
    )
    return measure_group(subjects, clock, rounds)


def _samples(group: SpeedGroup, members: list[MeasuredNetwork], result: GroupResult, start: int) -> list[Sample]:
    by_name = {member.name: member for member in members}
    for name in CEILING_NAMES:
        by_name[name] = MeasuredNetwork(name, "", group.condition.memory_format, 0)

    def sample(timing: Timing, role: str) -> Sample:
        member = by_name[timing.subject]
        values = asdict(group.condition) | {"memory_format": member.memory_format}
        return Sample(
            group=group.name,
            start=start,
            round=timing.round,
            position=timing.position,
            role=CEILING if timing.subject in CEILING_NAMES else role,
            model=member.model,
            form=member.form,
            input_px=member.input_px,
            iterations=timing.iterations,
            seconds=timing.seconds,
            **values,
        )

    return [sample(timing, TIMED) for timing in result.timings] + [
        sample(timing, DRIFT_CHECK) for timing in result.drift_check
    ]
