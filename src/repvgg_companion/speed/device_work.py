"""How each part of the device programme is measured, and what is kept of it."""

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from repvgg_companion.errors import Interrupted
from repvgg_companion.speed.convolutions import convolution_groups, convolution_method
from repvgg_companion.speed.device_parts import EMULATED, LEAST, DevicePart, DigitsSettings, PeerSettings
from repvgg_companion.speed.digits_training import train_on_digits
from repvgg_companion.speed.effort import Effort
from repvgg_companion.speed.finished_groups import FinishedGroups, FinishedWork, measure_groups
from repvgg_companion.speed.group_record import GroupRecord
from repvgg_companion.speed.measure_memory import measure_networks, memory_rows
from repvgg_companion.speed.peers import compare_with_timm
from repvgg_companion.speed.programme import Method, SpeedGroup, programme
from repvgg_companion.speed.speed_settings import KernelSettings, MemorySettings, SpeedSettings

GPU_BLOCK_S = 0.025
"""A round of one network lasts this long on a GPU, whose time is short: 20 rounds of 25 ms."""
GPU_WARM_UP_S = 0.4
"""The search for algorithms and the neighbours in the group have warmed a GPU already."""


@dataclass(frozen=True)
class MeasuredDevice:
    """The device that is measured, and the folder that keeps what is finished."""

    kind: str
    device: str
    threads: int
    state: Path

    @property
    def kept(self) -> FinishedWork:
        """Finished work other than groups."""
        return FinishedWork(self.state, self.device)


@dataclass
class Found:
    """The results of one part: groups of networks, groups of convolutions, rows of memory, pieces as JSON values."""

    part: DevicePart
    groups: list[GroupRecord] = field(default_factory=list)
    convolutions: list[GroupRecord] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    pieces: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything was measured."""
        return bool(self.groups or self.convolutions or self.memory or self.pieces)


def work_on(part: DevicePart, device: MeasuredDevice, effort: Effort, *, start: int = 0) -> None:
    """Measure and keep what is missing of a part within `effort`.

    Raises Interrupted if something is left, CompanionError with the reason if the part cannot be measured here.
    """
    work = part.work
    if isinstance(work, SpeedSettings):
        kept = FinishedGroups(device.state, method_of(part, device))
        measure_groups(part.name, speed_groups(part), kept, effort, start=start)
    elif isinstance(work, KernelSettings):
        kept = FinishedGroups(device.state, method_of(part, device))
        measure_groups(part.name, convolution_groups(work, device.kind), kept, effort)
    elif isinstance(work, MemorySettings):
        measure_networks(work, device.kept, effort)
    elif isinstance(work, PeerSettings):
        _compare(part.name, work, device, effort)
    else:
        _train(work, device, effort)


def speed_groups(part: DevicePart) -> list[SpeedGroup]:
    """The groups of a part; their names begin with its own, since a network may be in several parts."""
    assert isinstance(part.work, SpeedSettings)
    return [replace(group, name=f"{part.name}: {group.name}") for group in programme(part.work)]


def method_of(part: DevicePart, device: MeasuredDevice) -> Method:
    """How the groups of a part are measured, be they of networks or of convolutions."""
    if isinstance(part.work, KernelSettings):
        method = convolution_method(part.work, device.kind, device.threads)
    else:
        assert isinstance(part.work, SpeedSettings)
        method = replace(Method.of(part.work), emulated=EMULATED)
    if device.kind == "cuda":
        limits = replace(
            method.limits,
            warm_up_seconds=min(GPU_WARM_UP_S, method.limits.warm_up_seconds),
            block_seconds=min(GPU_BLOCK_S, method.limits.block_seconds),
            block_calls=1,
        )
        return replace(method, limits=limits)
    if part.group_seconds:
        return replace(method, group_seconds=part.group_seconds, least_rounds=LEAST)
    return method


def _compare(name: str, work: PeerSettings, device: MeasuredDevice, effort: Effort) -> list[dict[str, Any]]:
    pieces = []
    for model in work.models:
        facts = {"model": model, "settings": asdict(work) | {"models": None}}
        piece = device.kept.found("peers", facts)
        if piece is None and not effort.finish:
            _require_time(name, device, effort)
            piece = compare_with_timm(model, work, device.kind)
            device.kept.store("peers", facts, piece)
        pieces += [piece] if piece is not None else []
    return pieces


def _train(work: DigitsSettings, device: MeasuredDevice, effort: Effort) -> list[dict[str, Any]]:
    facts = asdict(work)
    piece = device.kept.found("digits", facts)
    if piece is None and not effort.finish:
        _require_time("digits", device, effort)
        with tempfile.TemporaryDirectory(prefix="measure-device-") as folder:
            piece = train_on_digits(work, Path(folder), device.kind)
        device.kept.store("digits", facts, piece)
    return [piece] if piece is not None else []


def _require_time(name: str, device: MeasuredDevice, effort: Effort) -> None:
    if effort.seconds_left <= 0:
        raise Interrupted(f"the time for {name} is over; what is finished is kept in {device.state}")


def is_complete(part: DevicePart, device: MeasuredDevice, start: int) -> bool:
    """Whether all groups of one process start of a part of speeds are kept."""
    if not isinstance(part.work, SpeedSettings):
        return False
    kept = FinishedGroups(device.state, method_of(part, device))
    return all(kept.path_of("group", {"group": asdict(group), "start": start}).exists() for group in speed_groups(part))


def collect(part: DevicePart, device: MeasuredDevice) -> Found:
    """All that is kept of a part, of all its process starts; measures nothing."""
    work, found = part.work, Found(part)
    if isinstance(work, SpeedSettings):
        kept = FinishedGroups(device.state, method_of(part, device))
        pairs = ((group, start) for start in range(part.starts) for group in speed_groups(part))
        found.groups = [record for group, start in pairs if (record := kept.load(group, start)) is not None]
    elif isinstance(work, KernelSettings):
        kept = FinishedGroups(device.state, method_of(part, device))
        groups = convolution_groups(work, device.kind)
        found.convolutions = [record for group in groups if (record := kept.load(group, 0)) is not None]
    elif isinstance(work, MemorySettings):
        found.memory, _ = memory_rows(work, device.kept)
    elif isinstance(work, PeerSettings):
        found.pieces = _compare(part.name, work, device, Effort(finish=True))
    else:
        found.pieces = _train(work, device, Effort(finish=True))
    return found
