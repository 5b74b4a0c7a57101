"""From records to rows: measured groups go in, rows of the contract's `speed` table come out. No torch.

A row whose drift check or spread fails its limits is flagged, not dropped; a network that could not be measured gets an
empty row that says why.
"""

from collections.abc import Callable, Sequence
from typing import Any

from repvgg_companion.identity import split_model_name
from repvgg_companion.speed.samples import KEY, Samples
from repvgg_companion.speed.statistics import median_interval, spread_pct

START_LIMIT_PCT = 5.0
"""Medians of process starts may differ by so much before the row is flagged: each start chooses its own algorithms."""

ABOVE_DIRECT = "above the direct-convolution ceiling"
"""The flag of a row that a device reaches only with fewer multiplications, as Winograd's."""

Rate = Callable[[dict[str, Any]], tuple[float | None, str]]


def speed_rows(
    records: Sequence[Any],
    samples: Samples,
    *,
    experiment: str,
    width: float,
    num_classes: Callable[[str], int],
    params: Callable[[str, str], int],
    drift_limit_pct: float,
    spread_limit_pct: float,
    roofline: Rate = lambda row: (None, ""),
) -> list[dict[str, Any]]:
    """One row per network and condition, in the order of measuring.

    `records` are the run's `GroupRecord`s. A network that was in several groups (the anchor) has one row from all its
    samples. `roofline` gives a row's share of the roofline and a flag.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    found: dict[tuple, list[tuple[Any, Any]]] = {}
    for record in records:
        condition = record.condition
        for member in record.members:
            values = {**condition, "model": member.model, "form": member.form, "input_px": member.input_px,
                      "memory_format": member.memory_format}  # fmt: skip
            key = tuple(values[name] for name in KEY)
            found.setdefault(key, []).append((record, member))
            rows.setdefault(key, values)
    for key, row in rows.items():
        measured = [(record, member) for record, member in found[key] if not member.reason]
        base_model, variation = split_model_name(row["model"])
        row |= {
            "experiment": experiment,
            "dataset": None,
            "base_model": base_model,
            "variation": variation,
            "width": width,
            "num_classes": num_classes(row["model"]),
            "weights_sha256": "random",
            "run_id": samples.run_id,
            "device": samples.device,
            "params": params(row["model"], row["form"]),
            "n_samples": 0,
        }
        if not measured:
            row["flags"] = f"not measured: {found[key][0][1].reason}"
            continue
        rate = samples.rate(key)
        row |= {
            "examples_per_s": rate.value,
            "low_examples_per_s": rate.low,
            "high_examples_per_s": rate.high,
            **samples.percentiles(key),
            "n_samples": rate.n,
            "peak_memory_mib": max((member.peak_memory_mib or 0.0 for _, member in measured)) or None,
        }
        row["roofline_share"], above = roofline(row)
        flags = _flags(key, measured, len(found[key]), samples, drift_limit_pct, spread_limit_pct)
        if reasons := sorted({member.reason for _, member in found[key] if member.reason}):
            flags.append(f"partly not measured: {reasons[0]}")
        row["flags"] = "; ".join([*flags, above] if above else flags)
    return list(rows.values())


def _flags(
    key: tuple, measured: list[tuple[Any, Any]], groups: int, samples: Samples, drift_limit: float, spread_limit: float
) -> list[str]:
    flags = []
    drifted = [record.drift_pct for record, _ in measured if abs(record.drift_pct) > drift_limit]
    if drifted:
        worst = max(drifted, key=abs)
        flags.append(f"drift {worst:+.1f} %" + (f" in {len(drifted)} of {groups} groups" if groups > 1 else ""))
    chosen = samples.of(key)
    by_group: dict[tuple, list[float]] = {}
    for sample in chosen:
        by_group.setdefault((sample.start, sample.group), []).append(sample.seconds)
    if (spread := max(map(spread_pct, by_group.values()))) > spread_limit:
        flags.append(f"spread {spread:.0f} %")
    starts = sorted({sample.start for sample in chosen})
    if len(starts) > 1:
        medians = [
            median_interval([sample.seconds for sample in chosen if sample.start == start]).value for start in starts
        ]
        if (differ := 100 * (max(medians) / min(medians) - 1)) > START_LIMIT_PCT:
            flags.append(f"process starts differ by {differ:.0f} %")
    if any(not member.warm_up_stable for _, member in measured):
        flags.append("warm-up not stable")
    for record, _ in measured:
        flags += [flag for flag in record.flags if _kind(flag) not in map(_kind, flags)]
    return flags


def _kind(flag: str) -> str:
    return flag.partition(":")[0]
