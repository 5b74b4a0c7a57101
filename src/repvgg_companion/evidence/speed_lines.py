"""Speeds and memory of two folders of results side by side, and the ratios that each of them allows within one run."""

from collections.abc import Iterator
from typing import TypeVar

from repvgg_companion.evidence.compared_line import ComparedLine, Measured, Side
from repvgg_companion.paper.comparable_runs import ComparableRun, comparable_runs, interval_of
from repvgg_companion.paper.grammar import Quantity, parse
from repvgg_companion.paper.ours import Row, grouped
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import DISTURBED_REASON
from repvgg_companion.speed.statistics import Interval

Found = TypeVar("Found")
_CONDITION = ("precision", "memory_format", "backend", "batch_size", "protocol")
_SPEED_KEY = ("model", "form", "width", "num_classes", "input_px", *_CONDITION)
_KERNEL_KEY = ("kernel_size", "channels", "resolution_px", *_CONDITION)
_MEMORY_KEY = ("model", "form", "width", "num_classes", "layer", "batch_size", "input_px")
_MEMORY = {"live_feature_map_mib": "live feature maps (MiB)", "peak_mib": "peak (MiB)"}
_TABLES = {
    "speed": (_SPEED_KEY, "examples_per_s", "speed (examples/s)"),
    "kernel_size": (_KERNEL_KEY, "tflops", "density (TFLOPS)"),
}


def speed_lines(first: Side, second: Side) -> Iterator[ComparedLine]:
    """Speeds and densities that both sides measured in the same setting.

    The library refuses a ratio across two runs, so each line shows both values and why there is no ratio.
    """
    for table, (key, column, quantity) in _TABLES.items():
        parts = [_latest(side.results.rows(table), key, column) for side in (first, second)]
        for found in (found for found in parts[0] if found in parts[1]):
            for one, two in _pairs_of_devices(parts[0][found], parts[1][found]):
                yield ComparedLine(
                    table,
                    _subject(one),
                    _setting(one),
                    quantity,
                    _measured(interval_of(one)),
                    _measured(interval_of(two)),
                    note=_why_no_ratio(one, two),
                )


def memory_lines(first: Side, second: Side) -> Iterator[ComparedLine]:
    """The memory that differs where both sides measured a network at the same point, batch and input.

    Memory is counted, not sampled: it has no interval, and two runs may be compared.
    """
    for column, quantity in _MEMORY.items():
        parts = [_latest(side.results.rows("memory"), _MEMORY_KEY, column) for side in (first, second)]
        for found in (found for found in parts[0] if found in parts[1]):
            for one, two in _pairs_of_devices(parts[0][found], parts[1][found]):
                if one[column] != two[column]:
                    devices = [one["device"], two["device"]]
                    yield ComparedLine(
                        "memory",
                        _subject(one),
                        f"{one['layer']}, batch {one['batch_size']}, {one['input_px']} px",
                        quantity,
                        Measured(one[column]),
                        Measured(two[column]),
                        Measured(two[column] - one[column]),
                        f"difference of {quantity}",
                        note="" if devices[0] == devices[1] else f"different devices ({' and '.join(devices)})",
                    )


def ratio_lines(first: Side, second: Side, facts: Facts) -> Iterator[ComparedLine]:
    """For every pair of speeds that a claim compares: its ratio on each side, each within one run."""
    for top, bottom in compared_pairs(facts):
        parts = [_runs(side, top, bottom) for side in (first, second)]
        for setting in (setting for setting in parts[0] if setting in parts[1]):
            for one, two in _pairs_of_devices(parts[0][setting], parts[1][setting]):
                yield _ratio_line(top, bottom, one, two)


def compared_pairs(facts: Facts) -> list[tuple[Quantity, Quantity]]:
    """The pairs of speeds, or of densities, that the terms of the claims compare, in the order of the claims."""
    pairs: dict[tuple[Quantity, Quantity], None] = {}
    for claim in facts.table("claims"):
        for term in parse(claim["condition"]):
            measured = [quantity for quantity in term.quantities if quantity.is_speed]
            if len(measured) == 2:
                pairs[measured[0], measured[1]] = None
    return list(pairs)


def _runs(side: Side, top: Quantity, bottom: Quantity) -> dict[tuple[str, str], dict[str, ComparableRun]]:
    """The comparable runs of a pair by precision and backend, then by device."""
    found: dict[tuple[str, str], dict[str, ComparableRun]] = {}
    for run in comparable_runs(side.results, [top, bottom])[0]:
        found.setdefault((run.precision, run.backend), {})[run.device] = run
    return found


def _ratio_line(top: Quantity, bottom: Quantity, one: ComparableRun, two: ComparableRun) -> ComparedLine:
    ratios = [run.ratio(top, bottom) for run in (one, two)]
    flags = [f"{name}: {flag}" for name, run in (("A", one), ("B", two)) for flag in run.disturbances((top, bottom))]
    apart = max(part.low for part in ratios) > min(part.high for part in ratios)
    words = "each ratio is of one run; the intervals " + ("do not overlap" if apart else "overlap")
    if flags:
        words = f"not compared: {DISTURBED_REASON} ({'; '.join(flags)})"
    if one.device != two.device:
        words = f"{one.device} and {two.device}; {words}"
    batches = f"batch {one.batch_size}"
    if one.batch_size != two.batch_size:
        batches += f" and {two.batch_size}"
    return ComparedLine(
        "ratio",
        f"{_name(top)} / {_name(bottom)}",
        f"{one.precision}, {one.backend}, {batches}",
        f"{top.name} ratio",
        _measured(ratios[0]),
        _measured(ratios[1]),
        note="the same run" if one.run_id == two.run_id else words,
    )


def _latest(rows: list[Row], key: tuple[str, ...], column: str) -> dict[tuple, dict[str, Row]]:
    """The measured rows by setting, then by device: of several runs of one device the latest."""
    measured = [row for row in rows if row[column] is not None]
    return {
        setting: {row["device"]: row for row in sorted(members, key=lambda row: row["run_id"])}
        for setting, members in grouped(measured, lambda row: tuple(row[name] for name in key)).items()
    }


def _pairs_of_devices(first: dict[str, Found], second: dict[str, Found]) -> Iterator[tuple[Found, Found]]:
    """What one device measured on both sides; without a common device every pair of devices."""
    common = [device for device in first if device in second]
    if common:
        yield from ((first[device], second[device]) for device in common)
        return
    yield from ((one, two) for one in first.values() for two in second.values())


def _subject(row: Row) -> str:
    if "kernel_size" in row:
        return f"{row['kernel_size']}x{row['kernel_size']} convolution"
    width = "" if row["width"] == 1 else f" width {row['width']:g}"
    return f"{row['model']} {row['form']}{width}"


def _setting(row: Row) -> str:
    if "kernel_size" in row:
        shape = f"{row['channels']} channels, {row['resolution_px']} px"
    else:
        shape = f"{row['input_px']} px"
    words = (row["precision"], row["backend"], row["memory_format"], f"batch {row['batch_size']}", shape)
    return f"{', '.join(words)}, protocol {row['protocol']}"


def _why_no_ratio(one: Row, two: Row) -> str:
    if one["run_id"] == two["run_id"]:
        return "the same row of the same run"
    flags = [f"{name} is flagged: {row['flags']}" for name, row in (("A", one), ("B", two)) if row["flags"]]
    if one["device"] != two["device"]:
        why = f"no ratio: different devices ({one['device']} and {two['device']})"
    else:
        why = "no ratio: different runs, whose clocks and temperature differ"
    return "; ".join([why, *flags])


def _name(quantity: Quantity) -> str:
    if quantity.name == "density":
        return f"{quantity.subject}x{quantity.subject}"
    return quantity.subject + (" (train form)" if quantity.form == "train" else "")


def _measured(interval: Interval) -> Measured:
    return Measured(interval.value, interval.low, interval.high)
