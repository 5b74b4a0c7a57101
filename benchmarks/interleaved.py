"""Peers measured in turn in one process: named functions in, a Markdown table of medians, ranges and ratios out."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
LEAST_SECONDS = 0.2
sys.path.insert(0, str(SOURCE))  # a checkout is enough: the package need not be installed


def measure(
    runs: dict[str, Callable[[], int]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Call each function in turn, round by round, after one untimed call each; returns items per second per round.

    What takes less than `LEAST_SECONDS` is called several times a round. What one has left to write is on the disk
    before the next one begins. Each function returns the number of items that it handled. For work in this process
    alone `clock` may be `time.process_time`: items per second of one core, whatever else the machine does.
    """
    calls = {}
    for name, run in runs.items():
        started = time.perf_counter()
        run()
        calls[name] = max(1, round(LEAST_SECONDS / (time.perf_counter() - started)))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            os.sync()
            started = clock()
            items = sum(run() for _ in range(calls[name]))
            rates[name].append(items / (clock() - started))
    return rates


def print_table(title: str, rates: dict[str, list[float]], *, peer: str, unit: str = "images/s") -> None:
    """Print medians with their ranges and the ratio to `peer`, the median over rounds of the ratio in each round."""
    print(f"\n## {title}\n")
    print(f"| way | {unit}, median (lowest to highest) | ratio to {peer} (lowest to highest) |\n| --- | --- | --- |")
    for name, values in rates.items():
        ratios = [own / other for own, other in zip(values, rates[peer])]
        print(
            f"| {name} | {statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f}) "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


def print_machine(*packages: str) -> None:
    """Print the date, the machine and the versions that the figures belong to."""
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{time.strftime('%Y-%m-%d')}, {_processor()}, {cores} cores, Python {platform.python_version()}, {versions}")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
