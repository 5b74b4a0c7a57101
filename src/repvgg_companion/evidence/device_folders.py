"""The folders below `results/devices`: refused where a row of theirs cannot be used as evidence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError, located
from repvgg_companion.models.names import require_model
from repvgg_companion.speed.samples import KEY
from repvgg_companion.speed.speed_settings import BACKENDS, MEMORY_FORMATS, PRECISIONS, PROTOCOLS

_KEYS = {
    "speed": ("run_id", *KEY, "width", "num_classes"),
    "kernel_size": ("run_id", "precision", "memory_format", "backend", "kernel_size", "batch_size", "channels",
                    "resolution_px"),
    "memory": ("run_id", "model", "form", "layer", "batch_size", "input_px", "width"),
}  # fmt: skip
"""The tables of a device that decide claims, and what tells their rows apart."""
_KNOWN = {"precision": PRECISIONS, "memory_format": MEMORY_FORMATS, "backend": BACKENDS, "protocol": PROTOCOLS}
Row = Mapping[str, Any]


def check_device_folders(folder: Path) -> list[Path]:
    """The device folders; raises CompanionError with file and line for a row that cannot be used.

    A row needs a known model and setting, the device of its folder, the raw samples of its run, and a key of its own.
    The verb `check-devices` checks the numbers themselves.
    """
    devices = visible_folders(folder)
    for device in devices:
        if not (device / "speed.csv").exists():
            raise CompanionError(
                f"{device / 'speed.csv'} does not exist; a device folder needs its rows and their raw samples"
            )
        for table in _KEYS:
            if (device / f"{table}.csv").exists():
                _check_table(device, table)
    return devices


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _check_table(device: Path, table: str) -> None:
    path = device / f"{table}.csv"
    seen: dict[tuple, int] = {}
    for line, row in enumerate(read_rows(path, table), start=2):
        where = f"{path} line {line}"
        if "model" in row:
            with located(where):
                require_model(row["model"])
        if row["device"] != device.name:
            raise CompanionError(f"{where}: the device {row['device']} is not that of the folder {device.name}")
        for column, known in _KNOWN.items():
            if row.get(column, known[0]) not in known:
                raise CompanionError(f"{where}: {column} {row[column]!r} is not known; use one of {', '.join(known)}")
        key = tuple(row[name] for name in _KEYS[table])
        if key in seen:
            raise CompanionError(f"{where}: the same network or kernel and setting is already on line {seen[key]}")
        seen[key] = line
        samples = device / "speed" / device.name / f"{row['run_id']}.parquet"
        if table == "speed" and not samples.exists():
            raise CompanionError(f"{where}: {samples} is missing; a row needs the raw samples of its run")
