"""From records of measured groups to rows of `speed.csv`.

A row whose drift check or spread fails its limits is flagged, not dropped; a network that could not be measured gets an
empty row with the reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import split_model_name
from repvgg_companion.speed.ceilings import ceilings_of
from repvgg_companion.speed.group_record import GroupRecord, MeasuredNetwork
from repvgg_companion.speed.harness import Limits
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.speed.roofline import ABOVE_DIRECT, WORK_KEY, judge, share_of_roofline, work_of_row
from repvgg_companion.speed.samples import KEY, Samples
from repvgg_companion.speed.speed_settings import FEW_SAMPLES, LEAST_ROUNDS
from repvgg_companion.speed.statistics import Interval, median_interval, spread_pct

START_LIMIT_PCT = 5.0
"""Medians of process starts may differ by this much before the row is flagged: each start chooses its algorithms."""

Measured = tuple[GroupRecord, MeasuredNetwork]


@dataclass(frozen=True)
class RunOfGroups:
    """The records of one run, ready to become rows."""

    records: Sequence[GroupRecord]
    samples: Samples
    limits: Limits
    width: float
    num_classes: int

    def rows(self, experiment: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows, and what a batch of each measured one computes and moves, with its share of the roofline.

        One row per network and condition, in the order of measuring. A network that was in several groups (the anchor)
        has one row from all its samples.
        """
        keys: dict[tuple, list[Measured]] = {}
        for record in self.records:
            for member in record.members:
                values = record.condition | vars(member)
                keys.setdefault(tuple(values[name] for name in KEY), []).append((record, member))
        rows: list[dict[str, Any]] = []
        work: dict[tuple, dict[str, Any]] = {}
        for key, found in keys.items():
            row, share = self._row(key, found, experiment)
            rows.append(row)
            if share is not None:
                interval = {"share": share.value, "share_low": share.low, "share_high": share.high}
                work.setdefault(tuple(row[name] for name in WORK_KEY), work_of_row(row) | interval)
        return rows, list(work.values())

    def _row(self, key: tuple, found: list[Measured], experiment: str) -> tuple[dict[str, Any], Interval | None]:
        row = dict(zip(KEY, key, strict=True))
        network = ModelForm(row["model"], row["form"], self.width, self.num_classes)
        base_model, variation = split_model_name(network.model)
        row |= {
            "experiment": experiment,
            "dataset": None,
            "base_model": base_model,
            "variation": variation,
            "width": self.width,
            "num_classes": network.classes,
            "weights_sha256": "random",
            "run_id": self.samples.run_id,
            "device": self.samples.device,
            "params": network.params(),
            "n_samples": 0,
        }
        measured = [(record, member) for record, member in found if not member.reason]
        if not measured:
            row["flags"] = f"not measured: {found[0][1].reason}"
            return row, None
        rate = self.samples.rate(key)
        row |= {
            "examples_per_s": rate.value,
            "low_examples_per_s": rate.low,
            "high_examples_per_s": rate.high,
            **self.samples.percentiles(key),
            "n_samples": rate.n,
            "peak_memory_mib": max((member.peak_memory_mib or 0.0 for _, member in measured)) or None,
        }
        rates = {moment: pair for record, _ in measured for moment, pair in record.ceiling_rates().items()}
        # From a few rounds of a machine that is not quiet a share may be wrong by a third.
        share = share_of_roofline(row, self.samples.of(key), rates) if rate.n >= LEAST_ROUNDS else None
        row["roofline_share"] = share.value if share else None
        above = self._above(row)
        if above and above != [ABOVE_DIRECT]:
            share = row["roofline_share"] = None
        row["flags"] = "; ".join([*self._flags(key, measured, len(found)), *self._reasons(found), *above])
        return row, share

    def _reasons(self, found: list[Measured]) -> list[str]:
        reasons = sorted({member.reason for _, member in found if member.reason})
        return [f"partly not measured: {reasons[0]}"] if reasons else []

    def _above(self, row: dict[str, Any]) -> list[str]:
        """The flag of a row above a ceiling; an impossible row is flagged here, and refused among committed ones."""
        ceilings = ceilings_of(self.records).get(row["precision"])
        if ceilings is None:
            return []
        try:
            flag = judge(row, ceilings)
        except CompanionError:
            flag = "implausible: above the Winograd ceiling"
        return [flag] if flag else []

    def _flags(self, key: tuple, measured: list[Measured], groups: int) -> Iterator[str]:
        drifted = [record.drift_pct for record, _ in measured if abs(record.drift_pct) > self.limits.drift_pct]
        if drifted:
            where = f" in {len(drifted)} of {groups} groups" if groups > 1 else ""
            yield f"drift {max(drifted, key=abs):+.1f} %{where}"
        chosen = self.samples.of(key)
        if len(chosen) < LEAST_ROUNDS:
            yield f"{FEW_SAMPLES}: {len(chosen)} of {LEAST_ROUNDS}"
        by_group: dict[tuple, list[float]] = {}
        by_start: dict[int, list[float]] = {}
        for sample in chosen:
            by_group.setdefault((sample.start, sample.group), []).append(sample.seconds)
            by_start.setdefault(sample.start, []).append(sample.seconds)
        if (spread := max(map(spread_pct, by_group.values()))) > self.limits.spread_pct:
            yield f"spread {spread:.0f} %"
        medians = [median_interval(seconds).value for seconds in by_start.values()]
        if (differ := 100 * (max(medians) / min(medians) - 1)) > START_LIMIT_PCT:
            yield f"process starts differ by {differ:.0f} %"
        kinds: set[str] = set()
        for record, member in measured:
            for flag in (*member.flags, *record.flags):
                if (kind := flag.partition(":")[0]) not in kinds:
                    kinds.add(kind)
                    yield flag
