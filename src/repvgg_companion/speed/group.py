"""One group under one condition: builds its networks, measures them in turn, frees them; a plain record comes out.

Whatever fails for one network (no such backend, out of memory, no such precision) becomes the reason of its empty row;
the others go on.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import BUSY_SHARE, CpuMoment, foreign_share
from repvgg_companion.machine.device import machine_state
from repvgg_companion.machine.nvml import gpu_flags
from repvgg_companion.machine.torch_device import free_memory, is_out_of_memory, set_precision
from repvgg_companion.speed import peak_memory
from repvgg_companion.speed.backends import forget_compiled, make_call
from repvgg_companion.speed.clocks import Clock, clock_for, require_synchronised
from repvgg_companion.speed.engines import Unavailable
from repvgg_companion.speed.harness import LIMITS, GroupResult, Limits, Subject, measure_group, measure_in_sequence
from repvgg_companion.speed.networks import ModelForm, buffers_for, prepare, random_inputs
from repvgg_companion.speed.programme import Condition, SpeedGroup
from repvgg_companion.speed.samples import DRIFT_CHECK, TIMED, Sample
from repvgg_companion.speed.speed_settings import PAPER_BATCHES, UNSEEN_MEMORY, SpeedSettings


@dataclass
class MeasuredNetwork:
    """One network of a group: what it was run with, what memory it took, or why it was not measured."""

    model: str
    form: str
    memory_format: str
    input_px: int
    reason: str = ""
    peak_memory_mib: float | None = None
    warm_up_calls: int = 0
    warm_up_stable: bool = True
    probe_s: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the network in the samples."""
        return f"{self.model} {self.form}"


@dataclass
class GroupRecord:
    """Everything that measuring a group gave, as plain values."""

    group: str
    start: int
    condition: dict[str, Any]
    members: list[MeasuredNetwork]
    samples: list[Sample]
    drift_pct: float
    foreign_share: float
    flags: list[str]
    readings: dict[str, Any]
    seconds: float
    """How long it took, so that a programme with a time limit knows whether the next group fits."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The record back from JSON values."""
        members = [MeasuredNetwork(**member) for member in values["members"]]
        samples = [Sample(**sample) for sample in values["samples"]]
        return cls(**{**values, "members": members, "samples": samples})


def limits_of(settings: SpeedSettings, kind: str) -> Limits:
    """The limits of the device, with those that the settings name in their place."""
    base = LIMITS[kind]
    return Limits(
        settings.warm_up_seconds or base.warm_up_seconds,
        base.warm_up_calls,
        base.block_seconds,
        base.block_calls,
        settings.drift_limit_pct or base.drift_pct,
        settings.spread_limit_pct or base.spread_pct,
    )


@torch.inference_mode()
def measure(
    group: SpeedGroup,
    settings: SpeedSettings,
    kind: str,
    *,
    start: int = 0,
    on_round: Callable[[], None] = lambda: None,
    formats: Mapping[tuple, str] | None = None,
) -> GroupRecord:
    """Measure one group on the device of `kind` (`cpu` or `cuda`) in this process.

    `formats` holds what earlier probes of the run have found, by `format_key`; a network is probed once in a run, or
    its samples would fall into two rows.
    """
    condition, clock = group.condition, clock_for(kind)
    threads = torch.get_num_threads()
    members, subjects, entered = [], [], time.monotonic()
    for network in group.networks:
        member, subject = _prepared(network, condition, settings, kind, threads, formats or {})
        members.append(member)
        if subject is not None:
            subjects.append(subject)
    before, began = machine_state(kind), CpuMoment.now()
    result = GroupResult()
    if subjects:
        try:
            result = _timed(subjects, condition, settings, kind, clock, start=start, on_round=on_round)
        except RuntimeError as error:
            # No network can be named, for each ran alone before; so none of the group has times.
            reason = f"{_reason(error, condition)} while the group was measured"
            for member in members:
                member.reason = member.reason or reason
    share = foreign_share(began, CpuMoment.now())
    after = machine_state(kind)
    for member in members:
        member.warm_up_calls = result.warm_up_calls.get(member.name, 0)
        member.warm_up_stable = member.name not in result.unstable
    subjects.clear()
    forget_compiled()
    free_memory(kind)
    flags = gpu_flags(before, after)
    if share > BUSY_SHARE:
        flags.append(f"busy: other processes took {100 * share:.0f} % of the cores")
    return GroupRecord(
        group=group.name,
        start=start,
        condition=asdict(condition),
        members=members,
        samples=_samples(group, members, result, start),
        drift_pct=result.drift_pct(),
        foreign_share=share,
        flags=flags,
        readings={"before": before, "after": after},
        seconds=time.monotonic() - entered,
    )


def _timed(
    subjects: list[Subject], condition: Condition, settings: SpeedSettings, kind: str, clock: Clock, *, start: int,
    on_round: Callable[[], None],
) -> GroupResult:  # fmt: skip
    if kind == "cuda":
        require_synchronised(clock, subjects[0].call, torch.cuda.synchronize)
    if condition.protocol == "paper":
        return measure_in_sequence(
            subjects, clock, warm_up_batches=PAPER_BATCHES, timed_batches=PAPER_BATCHES, on_round=on_round
        )
    return measure_group(
        subjects,
        clock,
        rounds=settings.rounds,
        limits=limits_of(settings, kind),
        seed=settings.seed + start,
        on_round=on_round,
    )


def _prepared(
    network: ModelForm, condition: Condition, settings: SpeedSettings, kind: str, threads: int,
    formats: Mapping[tuple, str],
) -> tuple[MeasuredNetwork, Subject | None]:  # fmt: skip
    px = network.input_px(settings.input_px)
    found = formats.get(format_key(asdict(condition), network.model, network.form))
    fixed = condition.memory_format if condition.memory_format != "probe" else found or "channels_last"
    member = MeasuredNetwork(network.model, network.form, fixed, px)
    try:
        set_precision(condition.precision, kind)
        probe = condition.memory_format == "probe" and found is None
        call = _call(network, condition, member, settings, kind, threads, probe)
        return member, Subject(network.name, call)
    except (Unavailable, CompanionError) as error:
        member.reason = str(error)
    except RuntimeError as error:
        member.reason = _reason(error, condition)
    # Here, where the exception and with it the frames that held the network are gone.
    free_memory(kind)
    return member, None


def _reason(error: RuntimeError, condition: Condition) -> str:
    """Why a network was not measured; an error that leaves the device unusable is raised again."""
    if is_out_of_memory(error):
        return f"out of memory at batch {condition.batch_size}"
    if isinstance(error, torch.AcceleratorError):
        raise error
    return f"{condition.backend} failed ({(str(error).splitlines() or [''])[0][:150]})"


def format_key(condition: Mapping[str, Any], model: str, form: str) -> tuple:
    """What the best memory format of a network depends on, beside the device and the versions."""
    return (model, form, *(condition[name] for name in ("protocol", "precision", "backend", "batch_size")))


def _call(
    network: ModelForm,
    condition: Condition,
    member: MeasuredNetwork,
    settings: SpeedSettings,
    kind: str,
    threads: int,
    probe: bool,
) -> Callable[[], object]:
    module = network.build(device=kind, seed=settings.seed)
    if probe:
        member.memory_format, member.probe_s = _probe(module, condition, member.input_px, kind, threads)
    prepare(module, precision=condition.precision, memory_format=member.memory_format)
    inputs = _inputs(condition, member.memory_format, member.input_px, kind)
    call = make_call(condition.backend, module, inputs, threads=threads, precision=condition.precision)
    call()
    if condition.backend not in UNSEEN_MEMORY:
        # A graph has taken its memory when it was captured; the network that it replays shows how much.
        graphed = getattr(call, "network", None)
        once = call if graphed is None else lambda: graphed(inputs[0])
        member.peak_memory_mib = peak_memory.held_mib(module, inputs) + peak_memory.peak_call_mib(once, kind)
    return call


def _inputs(condition: Condition, memory_format: str, px: int, kind: str) -> list[torch.Tensor]:
    return random_inputs(buffers_for(condition.batch_size), condition.batch_size, px, precision=condition.precision,
                         memory_format=memory_format, device=kind)  # fmt: skip


def _probe(
    module: torch.nn.Module, condition: Condition, px: int, kind: str, threads: int
) -> tuple[str, dict[str, float]]:
    """The faster memory format of a network by the shortest of five calls each, and the times.

    Convolutions are fused in the probe where they are in the measurement; a graph or a compiler does not change which
    format is faster.
    """
    backend = "fused" if "fused" in condition.backend else "eager"
    clock, calls = clock_for(kind), {}
    times: dict[str, list[float]] = {"contiguous": [], "channels_last": []}
    for memory_format in times:
        prepare(module, precision=condition.precision, memory_format=memory_format)
        calls[memory_format] = make_call(backend, module, _inputs(condition, memory_format, px, kind), threads=threads)
        # The weights must be in the format while it is timed, so the formats are timed one after the other.
        calls[memory_format]()
        times[memory_format] = [clock.time_block(calls[memory_format], 1) for _ in range(5)]
    shortest = {memory_format: min(seconds) for memory_format, seconds in times.items()}
    return min(shortest, key=shortest.get), shortest


def _samples(group: SpeedGroup, members: list[MeasuredNetwork], result: GroupResult, start: int) -> list[Sample]:
    by_name = {member.name: member for member in members}
    condition = group.condition
    rows = []
    for role, timings in ((TIMED, result.timings), (DRIFT_CHECK, result.drift_check)):
        for timing in timings:
            member = by_name[timing.subject]
            rows.append(
                Sample(
                    group=group.name,
                    start=start,
                    round=timing.round,
                    position=timing.position,
                    role=role,
                    model=member.model,
                    form=member.form,
                    protocol=condition.protocol,
                    precision=condition.precision,
                    memory_format=member.memory_format,
                    backend=condition.backend,
                    batch_size=condition.batch_size,
                    input_px=member.input_px,
                    iterations=timing.iterations,
                    seconds=timing.seconds,
                )
            )
    return rows
