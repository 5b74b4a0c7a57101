"""The `check-devices` verb: are contributed measurements under `results/devices/` in order?

Layout: `results/devices/DEVICE/speed.csv` (also `kernel_size.csv`, `memory.csv`), `speed/DEVICE/RUN_ID.parquet`,
`runs/RUN_ID.json`. Every row of a time must follow from its raw samples and be possible on its device.
"""

import argparse
import re
from functools import cache
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError, located
from repvgg_companion.files import read_json
from repvgg_companion.identity import split_model_name
from repvgg_companion.machine.device import LABEL_PATTERN
from repvgg_companion.speed.samples import find_run
from repvgg_companion.speed.speed_settings import FEW_SAMPLES, LEAST_ROUNDS, KernelSettings

_AGREES = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `check-devices` verb."""
    parser.add_argument("--folder", default="results/devices", help="folder with one folder per device")


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

    Raises CompanionError naming file, row and what to do if a row does not fit the contract, does not follow from
    its samples, or is faster than the device can be.
    """
    folder = Path(folder)
    if not re.fullmatch(LABEL_PATTERN, folder.name):
        raise CompanionError(f"{folder}: the name is not a device label such as gpu-nvidia-h100-80gb-hbm3-700w")
    count, flags = 0, []
    _samples.cache_clear()
    for table in TABLES:
        path = folder / f"{table}.csv"
        if not path.exists():
            continue
        for number, row in enumerate(read_rows(path, table), start=1):
            count += 1
            with located(f"{path}: row {number}"):
                found = _CHECKS[table](folder, row, _run_facts(folder, row))
            flags += [f"{path}: row {number}: {flag}" for flag in found]
    if not count:
        raise CompanionError(f"{folder} holds none of {', '.join(f'{table}.csv' for table in TABLES)}")
    return count, flags


def _run_facts(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    if row["device"] != folder.name:
        raise CompanionError(f"it belongs to {row['device']}; move it to the folder of that device")
    path = folder / "runs" / f"{row['run_id']}.json"
    if not path.exists():
        raise CompanionError(f"it is of the run {row['run_id']}, but {path} is missing; copy it from the run")
    facts = read_json(path)
    if facts.get("device") != row["device"]:
        raise CompanionError(
            f"{path} is of the device {facts.get('device')}, not of {row['device']}; copy the right one"
        )
    return facts


def _check_speed_row(folder: Path, row: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    base_model, variation = split_model_name(row["model"])
    if (base_model, variation or None) != (row["base_model"], row["variation"]):
        raise CompanionError(f"base_model and variation are not those of {row['model']}")
    from repvgg_companion.speed.roofline import judge, network_of

    params = network_of(row).params()
    if row["params"] != params:
        raise CompanionError(
            f"{row['model']} {row['form']} has {params} parameters, the row says {row['params']}; "
            "another network was measured"
        )
    if _is_empty(row, row["examples_per_s"]):
        return []
    samples = _samples(folder, row["run_id"])
    rate = samples.rate(row)
    expected = {
        "examples_per_s": rate.value,
        "low_examples_per_s": rate.low,
        "high_examples_per_s": rate.high,
        "n_samples": rate.n,
        **samples.percentiles(row),
    }
    _agree(row, expected)
    flag = judge(row, _ceilings(row, facts))
    return [flag] if flag else []


def _check_kernel_row(folder: Path, row: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    from repvgg_companion.speed.convolutions import macs
    from repvgg_companion.speed.measure_kernel_sizes import times_of
    from repvgg_companion.speed.roofline import PLAUSIBLE, above_ceiling
    from repvgg_companion.speed.statistics import median_interval

    if _is_empty(row, row["time_ms"]):
        return []
    time = median_interval(times_of(row, _samples(folder, row["run_id"])))
    settings = KernelSettings(row["batch_size"], row["channels"], row["resolution_px"])
    expected = {
        "time_ms": 1e3 * time.value,
        "low_ms": 1e3 * time.low,
        "high_ms": 1e3 * time.high,
        "n_samples": time.n,
        "tflops": 2 * macs(settings, row["kernel_size"]) / time.value / 1e12,
    }
    _agree(row, expected)
    direct = _ceilings(row, facts).operations_per_s / 1e12
    # F(4x4, kxk) needs ((k + 3) / 4k)^2 of the multiplications: a quarter for 3x3, all for 1x1. The paper's own Table 1
    # lies at 3.4 times its GPU's peak, so F(2x2, 3x3) with 4/9 would be too strict for one convolution.
    size = row["kernel_size"]
    limit = PLAUSIBLE * direct * (4 * size / (size + 3)) ** 2
    if row["tflops"] > limit:
        raise CompanionError(
            f"{row['tflops']:.3g} TFLOPS are above {limit:.3g}, 1.1 times what {row['device']} can compute "
            f"with Winograd convolutions of {size}x{size}; the time was taken before the work had ended"
        )
    return [above_ceiling(row)] if row["tflops"] > direct else []


def _check_memory_row(_folder: Path, row: dict[str, Any], _facts: dict[str, Any]) -> list[str]:
    from repvgg_companion.speed.measure_memory import WHOLE
    from repvgg_companion.speed.roofline import network_of

    if row["layer"] == WHOLE and row["peak_mib"] is not None:
        weights = network_of(row).params() * 4 / 2**20
        if row["peak_mib"] < weights:
            raise CompanionError(
                f"{row['model']} {row['form']} at {row['peak_mib']:.1f} MiB is below its weights of "
                f"{weights:.1f} MiB; measure again"
            )
    return []


_CHECKS = {"speed": _check_speed_row, "kernel_size": _check_kernel_row, "memory": _check_memory_row}
TABLES = tuple(_CHECKS)


@cache
def _samples(folder: Path, run_id: str) -> Any:
    return find_run(folder / "speed", run_id)


def _is_empty(row: dict[str, Any], value: float | None) -> bool:
    """Whether a row holds no time; raises CompanionError if it does not say why, or rests on too few samples."""
    if value is None:
        if not (row["flags"] or "").startswith("not measured"):
            raise CompanionError("it is empty without a reason in its flags; leave it out or measure again")
        return True
    if row["n_samples"] < LEAST_ROUNDS and FEW_SAMPLES not in (row["flags"] or ""):
        raise CompanionError(f"it rests on {row['n_samples']} samples; at least {LEAST_ROUNDS} are needed")
    return False


def _agree(row: dict[str, Any], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        if row[name] is None or abs(row[name] / value - 1) > _AGREES:
            raise CompanionError(f"{name} is {row[name]}, but its raw samples give {value:g}")


def _ceilings(row: dict[str, Any], facts: dict[str, Any]) -> Any:
    from repvgg_companion.speed.roofline import Ceilings

    found = next((part for part in facts.get("ceilings", []) if part["precision"] == row["precision"]), None)
    if found is None:
        raise CompanionError(f"its run holds no ceiling in {row['precision']}; measure with roofline: true")
    return Ceilings(**found)
