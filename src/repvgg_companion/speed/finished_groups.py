"""A folder that keeps finished work, so that a later call goes on after it; and measuring a programme of groups."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from repvgg_companion.errors import Interrupted, counted
from repvgg_companion.files import read_json, short_digest, write_json
from repvgg_companion.progress import Progress
from repvgg_companion.runs import commit, environment
from repvgg_companion.speed.effort import Effort
from repvgg_companion.speed.group import Attempt, measure
from repvgg_companion.speed.group_record import GroupRecord
from repvgg_companion.speed.preparation import Known
from repvgg_companion.speed.programme import Method, SpeedGroup


@cache
def _commit_and_versions() -> dict[str, Any]:
    versions = environment()
    return {
        "commit": commit(),
        "versions": {package: versions.get(package) for package in ("torch", "onnxruntime", "openvino")},
    }


class FinishedWork:
    """The folder of finished work of one device, commit and set of versions."""

    def __init__(self, folder: Path, device: str, **depends_on: Any) -> None:
        self.folder = folder
        self._depends_on = {"device": device, **_commit_and_versions(), **depends_on}

    def path_of(self, kind: str, facts: Mapping[str, Any]) -> Path:
        """Where a piece of work is kept: everything that it depends on decides the name."""
        return self.folder / f"{kind}-{short_digest({**self._depends_on, **facts})}.json"

    def found(self, kind: str, facts: Mapping[str, Any]) -> Any:
        """The result of a finished piece of work, or None."""
        path = self.path_of(kind, facts)
        return read_json(path) if path.exists() else None

    def store(self, kind: str, facts: Mapping[str, Any], value: Any) -> None:
        """Keep the result of a piece of work, as JSON values."""
        write_json(self.path_of(kind, facts), value)


class FinishedGroups(FinishedWork):
    """The finished groups that were measured by one method."""

    def __init__(self, folder: Path, method: Method) -> None:
        super().__init__(folder, method.device, method=asdict(method))
        self.method = method

    def load(self, group: SpeedGroup, start: int) -> GroupRecord | None:
        """The record of a finished group, or None."""
        values = self.found("group", {"group": asdict(group), "start": start})
        return None if values is None else GroupRecord.from_dict(values)

    def keep(self, group: SpeedGroup, record: GroupRecord) -> None:
        """Keep the record of a finished group."""
        self.store("group", {"group": asdict(group), "start": record.start}, record.as_dict())

    def longest_s(self) -> float:
        """Seconds of the longest kept group."""
        return max((read_json(path)["seconds"] for path in self.folder.glob("group-*.json")), default=0.0)


def measure_groups(
    verb: str, groups: Sequence[SpeedGroup], kept: FinishedGroups, effort: Effort, *, start: int = 0
) -> list[GroupRecord]:
    """Measure all groups that are not kept yet, in this process; returns all records in order.

    Raises Interrupted if the next group would end after the deadline.
    """
    method = kept.method
    records: list[GroupRecord] = []
    known = Known()
    longest = kept.longest_s() if effort.deadline is not None else 0.0
    measured = 0
    with Progress(verb, total=len(groups) * method.rounds, unit="rounds") as progress:
        for number, group in enumerate(groups):
            record = kept.load(group, start)
            if record is not None:
                progress.advance(method.rounds)
            elif effort.finish:
                continue
            else:
                # The first group of a call is begun if there is time at all, or a long one would never be.
                if effort.seconds_left <= (longest if measured else 0.0):
                    raise Interrupted(
                        f"{len(records)} of {len(groups)} groups are measured and kept in {kept.folder}; run the same "
                        "command to go on"
                    )
                progress.note(f"{group.condition.label}: {', '.join(network.name for network in group.networks)}")
                if start and (first := kept.load(group, 0)) is not None:
                    known.formats |= first.formats()
                attempt = Attempt(start, progress.advance, time.monotonic() + effort.seconds_left)
                record = measure(group, method, attempt, known=known)
                kept.keep(group, record)
                _tell(record, len(groups) - number - 1, effort)
                measured, longest = measured + 1, max(longest, record.seconds)
            records.append(record)
            known.formats |= record.formats()
    return records


def _tell(record: GroupRecord, left: int, effort: Effort) -> None:
    """One line for each network on standard error: how long each phase took, the speed, and what is left."""
    condition = record.condition
    setting = f"{condition['precision']} {condition['backend']} batch {condition['batch_size']}"
    time_left = "" if effort.deadline is None else f", {max(effort.seconds_left, 0) / 60:.1f} min"
    for member in record.members:
        seconds = sorted(record.seconds_of(member))
        if member.reason or not seconds:
            said = f"not measured: {member.reason}"
        else:
            phases = ", ".join(f"{name} {spent:.1f} s" for name, spent in member.phases_s.items())
            speed = condition["batch_size"] / seconds[len(seconds) // 2]
            said = f"{phases}; {speed:,.1f} images/s in {len(seconds)} rounds"
        print(
            f"{setting}: {member.name}: {said}; left: {counted(left, 'group')}{time_left}", file=sys.stderr, flush=True
        )
