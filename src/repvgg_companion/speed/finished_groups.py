"""Measuring a programme of groups, with a folder that keeps every finished group so that a later call goes on."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from repvgg_companion.errors import Interrupted
from repvgg_companion.files import read_json, short_digest, write_json
from repvgg_companion.progress import Progress
from repvgg_companion.runs import commit, environment
from repvgg_companion.speed.group import measure
from repvgg_companion.speed.group_record import GroupRecord
from repvgg_companion.speed.programme import Method, SpeedGroup


class FinishedGroups:
    """The folder of finished groups; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, method: Method) -> None:
        versions = environment()
        self.folder, self.method = folder, method
        self._depends_on = {
            "device": method.device,
            "commit": commit(),
            "versions": {package: versions.get(package) for package in ("torch", "onnxruntime", "openvino")},
            "method": asdict(method),
        }

    def path(self, group: SpeedGroup, start: int) -> Path | None:
        """Where a finished group is kept: everything that its samples depend on decides the name."""
        if self.folder is None:
            return None
        digest = short_digest(self._depends_on | {"group": asdict(group), "start": start})
        return self.folder / f"group-{digest}.json"

    def load(self, group: SpeedGroup, start: int) -> GroupRecord | None:
        """The record of a finished group, or None."""
        path = self.path(group, start)
        return GroupRecord.from_dict(read_json(path)) if path is not None and path.exists() else None

    def keep(self, group: SpeedGroup, record: GroupRecord) -> None:
        """Keep the record of a finished group."""
        path = self.path(group, record.start)
        if path is not None:
            write_json(path, record.as_dict())

    def longest_s(self) -> float:
        """Seconds of the longest kept group."""
        paths = self.folder.glob("group-*.json") if self.folder is not None else ()
        return max((read_json(path).get("seconds", 0.0) for path in paths), default=0.0)


@dataclass(frozen=True)
class Effort:
    """How far one call goes: until a moment of `time.monotonic`, or only through what is kept (`finish`)."""

    deadline: float | None = None
    finish: bool = False


def measure_groups(
    verb: str, groups: Sequence[SpeedGroup], kept: FinishedGroups, effort: Effort = Effort(), *, start: int = 0
) -> list[GroupRecord]:
    """Measure all groups that are not kept yet, in this process; returns all records in order.

    Raises Interrupted if the next group would end after the deadline.
    """
    method = kept.method
    records: list[GroupRecord] = []
    formats: dict[tuple, str] = {}
    longest = kept.longest_s() if effort.deadline is not None else 0.0
    measured = 0
    with Progress(verb, total=len(groups) * method.rounds, unit="rounds") as progress:
        for group in groups:
            record = kept.load(group, start)
            if record is not None:
                progress.advance(method.rounds)
            elif effort.finish:
                continue
            else:
                # The first group of a call is begun if there is time at all, or a long one would never be.
                now = time.monotonic() + (longest if measured else 0.0)
                if effort.deadline is not None and now >= effort.deadline:
                    raise Interrupted(
                        f"{len(records)} of {len(groups)} groups are measured and kept in {kept.folder}; run the same "
                        "command to go on"
                    )
                progress.note(f"{group.condition.label}: {', '.join(network.name for network in group.networks)}")
                if start and (first := kept.load(group, 0)) is not None:
                    formats |= first.formats()
                record = measure(group, method, start=start, on_round=progress.advance, formats=formats)
                kept.keep(group, record)
                measured, longest = measured + 1, max(longest, record.seconds)
            records.append(record)
            formats |= record.formats()
    return records
