"""The results of one group as plain values; the state folder, the rows and the run's JSON file are made from them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from repvgg_companion.speed.samples import CEILING, TIMED, Sample, Samples

CEILING_NAMES = ("ceiling: compute", "ceiling: copy")
"""The samples' model names of the device's ceilings."""


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
    output_error: float | None = None
    """Largest difference of the logits from eager's, relative to the largest logit."""
    fused_operators: tuple[int, int] | None = None
    """Convolutions that run as one fused operator, and all that could."""
    ways: dict[str, int] = field(default_factory=dict)
    """How many convolutions a GPU computes in which way; see `fused.WAYS`."""
    phases_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each phase: build, first calls (with the search for algorithms), warm-up, rounds."""

    @property
    def name(self) -> str:
        """The name of the network in the samples."""
        return f"{self.model} {self.form}"

    @property
    def flags(self) -> list[str]:
        """Flags of its row: what a reader must know."""
        flags = [] if self.warm_up_stable else ["warm-up not stable"]
        if self.fused_operators and self.fused_operators[0] < self.fused_operators[1]:
            flags.append("fused operators for {} of {} convolutions".format(*self.fused_operators))
        return flags


@dataclass(frozen=True)
class CeilingWork:
    """What one call of each ceiling does: operations (a multiply-add is two), and bytes read and written."""

    operations: int
    bytes: int
    how: str


@dataclass
class GroupRecord:
    """All results of measuring a group."""

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
    ceiling: CeilingWork | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The record back from JSON values."""
        members = [MeasuredNetwork(**member) for member in values["members"]]
        samples = [Sample(**sample) for sample in values["samples"]]
        ceiling = CeilingWork(**values["ceiling"]) if values["ceiling"] else None
        return cls(**{**values, "members": members, "samples": samples, "ceiling": ceiling})

    def seconds_of(self, member: MeasuredNetwork) -> list[float]:
        """The timed samples of one network in the order of the rounds."""
        key = (member.model, member.form, TIMED)
        return [sample.seconds for sample in self.samples if (sample.model, sample.form, sample.role) == key]

    def ceiling_rates(self) -> dict[tuple[int, str, int], tuple[float, float]]:
        """Operations and bytes per second in each round, by process start, group and round; empty without ceilings."""
        if self.ceiling is None:
            return {}
        seconds: dict[str, dict[int, float]] = {name: {} for name in CEILING_NAMES}
        for sample in self.samples:
            if sample.role == CEILING:
                seconds[sample.model][sample.round] = sample.seconds
        compute, copy = (seconds[name] for name in CEILING_NAMES)
        return {
            (self.start, self.group, number): (
                self.ceiling.operations / compute[number],
                self.ceiling.bytes / copy[number],
            )
            for number in sorted(set(compute) & set(copy))
        }

    def formats(self) -> dict[tuple, str]:
        """The memory formats in which the group's networks were measured, by `format_key`."""
        return {
            format_key(self.condition, member.model, member.form): member.memory_format
            for member in self.members
            if not member.reason
        }


def format_key(condition: Mapping[str, Any], model: str, form: str) -> tuple:
    """What the best memory format of a network depends on, beside the device and the versions."""
    return (model, form, *(condition[name] for name in ("protocol", "precision", "backend", "batch_size")))


def samples_of(records: Iterable[GroupRecord], run_id: str, device: str) -> Samples:
    """The raw samples of all groups of a run."""
    return Samples(run_id, device, tuple(sample for record in records for sample in record.samples))
