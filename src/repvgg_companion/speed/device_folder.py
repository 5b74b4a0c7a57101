"""The folder of one device: rows of all tables, raw samples and the run's JSON file, beside those of other runs.

Rows of other runs stay. The run that is written replaces only what it wrote itself, so that a programme which goes on
keeps one run id.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import peak_rss_mib
from repvgg_companion.runs import write_run
from repvgg_companion.speed.device_parts import DigitsSettings, PeerSettings
from repvgg_companion.speed.device_work import Found, MeasuredDevice
from repvgg_companion.speed.group_record import samples_of
from repvgg_companion.speed.harness import LIMITS
from repvgg_companion.speed.measure_kernel_sizes import kernel_rows, winograd_facts
from repvgg_companion.speed.measure_memory import FIGURE_3, WHOLE
from repvgg_companion.speed.measure_speed import group_facts
from repvgg_companion.speed.peers import peer_rows
from repvgg_companion.speed.rows import RunOfGroups
from repvgg_companion.speed.samples import Samples
from repvgg_companion.speed.speed_settings import KernelSettings, SpeedSettings

EXPERIMENT = "measure-device"
DEVICE_TABLES = ("speed", "kernel_size", "memory", "peers")


@dataclass(frozen=True)
class DeviceRun:
    """All that one run has measured on a device so far."""

    run_id: str
    device: MeasuredDevice
    found: Sequence[Found]

    @property
    def records(self) -> list[Any]:
        """The groups of networks of all parts, in order."""
        return [record for found in self.found for record in found.groups]

    @property
    def convolutions(self) -> list[Any]:
        """The groups of convolutions of all parts, in order."""
        return [record for found in self.found for record in found.convolutions]

    def tables(self, samples: Samples) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
        """The rows of each table, and the work of a batch of each row of speed."""
        limits = LIMITS[self.device.kind]
        sizes = next((found.part.work for found in self.found if isinstance(found.part.work, SpeedSettings)), None)
        width, num_classes = (sizes.width, sizes.num_classes) if sizes else (1.0, 1000)  # the same in all parts
        speed, work = RunOfGroups(self.records, samples, limits, width, num_classes).rows(EXPERIMENT)
        tables: dict[str, list[dict[str, Any]]] = {"speed": speed, "kernel_size": [], "memory": [], "peers": []}
        for found in self.found:
            settings = found.part.work
            if isinstance(settings, KernelSettings):
                for record in found.convolutions:
                    tables["kernel_size"] += kernel_rows(record, samples, settings, limits)
            elif isinstance(settings, PeerSettings):
                tables["peers"] += [row for piece in found.pieces for row in peer_rows(piece, settings)]
            # Keep whole networks and the points of Figure 3, but not every operator.
            tables["memory"] += [row for row in found.memory if row["layer"] in (WHOLE, *FIGURE_3)]
        shared = {"experiment": EXPERIMENT, "run_id": self.run_id, "device": self.device.device}
        return {name: [row | shared for row in rows] for name, rows in tables.items()}, work

    def write(self, folder: Path) -> dict[str, int]:
        """Write everything into `folder`, the rows last; returns the number of this run's rows in each table."""
        everything = [*self.records, *self.convolutions]
        samples = samples_of(everything, self.run_id, self.device.device)
        tables, work = self.tables(samples)
        merged = {name: [*self._of_other_runs(folder, name), *rows] for name, rows in tables.items() if rows}
        samples.write(folder / "speed")
        write_run(
            folder / "runs",
            self.run_id,
            verb=EXPERIMENT,
            experiment=EXPERIMENT,
            device=self.device.device,
            parts=[asdict(found.part) for found in self.found],
            work=work,
            process_peak_mib=peak_rss_mib(),
            winograd=[winograd_facts(record, samples) for record in self.convolutions],
            peers=self._pieces(PeerSettings),
            digits=self._pieces(DigitsSettings),
            **group_facts(everything, self.device.kind),
        )
        for name, rows in merged.items():
            write_rows(folder / f"{name}.csv", name, rows)
        return {name: len(rows) for name, rows in tables.items() if rows}

    def _pieces(self, kind: type) -> list[dict[str, Any]]:
        return [piece for found in self.found if isinstance(found.part.work, kind) for piece in found.pieces]

    def _of_other_runs(self, folder: Path, table: str) -> list[dict[str, Any]]:
        path = folder / f"{table}.csv"
        return [row for row in read_rows(path, table) if row["run_id"] != self.run_id] if path.exists() else []


def require_own_tables(folder: Path, device: str) -> None:
    """Raise CompanionError if a table in `folder` has no rows of this device, before anything is measured."""
    for table in DEVICE_TABLES:
        path = folder / f"{table}.csv"
        if path.exists() and any(row["device"] != device for row in read_rows(path, table)):
            raise CompanionError(f"{path} has rows of another device than {device}; give another --output")
