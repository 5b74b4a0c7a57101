"""The `check-devices` verb: contributed measurements under `results/devices/` go in, nothing or one sentence comes out.

Layout: `results/devices/DEVICE/speed.csv` (also `kernel_size.csv`, `memory.csv`), `speed/DEVICE/RUN_ID.parquet`,
`runs/RUN_ID.json`. Every speed row must follow from its raw samples and be possible on its device.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json
from repvgg_companion.identity import split_model_name
from repvgg_companion.speed.device import LABEL_PATTERN
from repvgg_companion.speed.samples import find_run
from repvgg_companion.speed.settings import LEAST_ROUNDS

TABLES = ("speed", "kernel_size", "memory")
_AGREES = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `check-devices` verb."""
    parser.add_argument("--folder", default="results/devices", help="folder with one folder a device")


def run(arguments: argparse.Namespace) -> None:
    """Check every device folder; prints what is flagged and how many rows passed."""
    folder = Path(arguments.folder)
    devices = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for device in devices:
        rows, flags = check_device(device)
        for flag in flags:
            print(flag)
        print(f"{device.name}: {rows} rows are in order, {len(flags)} of them flagged")
    if not devices:
        print(f"{folder} holds no device")


def check_device(folder: str | Path) -> tuple[int, list[str]]:
    """Check one device folder; returns the number of rows and the flags.

    Raises CompanionError naming file, row and what to do where a row does not fit the contract, does not follow from
    its samples, or is faster than the device can be.
    """
    folder = Path(folder)
    if not re.fullmatch(LABEL_PATTERN, folder.name):
        raise CompanionError(f"{folder}: the folder's name is no device label such as gpu-nvidia-h100-80gb-hbm3-700w")
    count, flags = 0, []
    for table in TABLES:
        path = folder / f"{table}.csv"
        if not path.exists():
            continue
        for number, row in enumerate(read_rows(path, table), start=1):
            count += 1
            where = f"{path}: row {number}"
            facts = _run_facts(folder, row, where)
            if table == "speed":
                _check_speed_row(folder, row, where)
                flags += [f"{where}: {flag}" for flag in _plausibility(row, facts, where)]
    if not count:
        raise CompanionError(f"{folder} holds none of {', '.join(f'{table}.csv' for table in TABLES)}")
    return count, flags


def _run_facts(folder: Path, row: dict[str, Any], where: str) -> dict[str, Any]:
    if row["device"] != folder.name:
        raise CompanionError(f"{where} belongs to {row['device']}; move it to the folder of that device")
    path = folder / "runs" / f"{row['run_id']}.json"
    if not path.exists():
        raise CompanionError(f"{where} is of the run {row['run_id']}, but {path} is missing; copy it from the run")
    facts = read_json(path)
    if facts.get("device") != row["device"]:
        raise CompanionError(
            f"{path} is of the device {facts.get('device')}, not of {row['device']}; copy the right one"
        )
    return facts


def _check_speed_row(folder: Path, row: dict[str, Any], where: str) -> None:
    base_model, variation = split_model_name(row["model"])
    if (base_model, variation or None) != (row["base_model"], row["variation"]):
        raise CompanionError(f"{where}: base_model and variation are not those of {row['model']}")
    from repvgg_companion.speed.roofline import network_of

    params = network_of(row).params()
    if row["params"] != params:
        raise CompanionError(
            f"{where}: {row['model']} {row['form']} has {params} parameters, the row says {row['params']}; "
            "another network was measured"
        )
    if row["examples_per_s"] is None:
        if not (row["flags"] or "").startswith("not measured"):
            raise CompanionError(f"{where} is empty without a reason in its flags; leave it out or measure again")
        return
    if row["n_samples"] < LEAST_ROUNDS:
        raise CompanionError(f"{where} rests on {row['n_samples']} samples; at least {LEAST_ROUNDS} are needed")
    rate = find_run(folder / "speed", row["run_id"]).rate(row)
    for name, value in (("examples_per_s", rate.value), ("low_examples_per_s", rate.low),
                        ("high_examples_per_s", rate.high), ("n_samples", rate.n)):  # fmt: skip
        if abs(row[name] / value - 1) > _AGREES:
            raise CompanionError(f"{where}: {name} is {row[name]:g}, but its raw samples give {value:g}")


def _plausibility(row: dict[str, Any], facts: dict[str, Any], where: str) -> list[str]:
    from repvgg_companion.speed.roofline import Ceilings, judge

    if row["examples_per_s"] is None:
        return []
    found = next((part for part in facts.get("ceilings", []) if part["precision"] == row["precision"]), None)
    if found is None:
        raise CompanionError(f"{where}: its run holds no ceiling in {row['precision']}; measure with roofline: true")
    try:
        flag = judge(row, Ceilings(**found))
    except CompanionError as error:
        raise CompanionError(f"{where}: {error}") from None
    return [flag] if flag else []
