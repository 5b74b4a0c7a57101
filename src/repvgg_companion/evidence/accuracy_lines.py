"""Differences of accuracy between two folders of results, with 95 % intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repvgg_companion.evidence.compared_line import ComparedLine, Measured, Side
from repvgg_companion.paper import mean_iou
from repvgg_companion.paper.grammar import NotAvailable
from repvgg_companion.paper.inference import Span, over_seeds
from repvgg_companion.paper.ours import Row, describe_network, grouped
from repvgg_companion.paper.verdicts import over_same_images

SAME = ("dataset", "width", "num_classes", "input_px", "protocol")
"""Accuracies are compared only where these columns agree; model and form must be the same too."""


@dataclass(frozen=True)
class _Kind:
    """The columns of one table of accuracies."""

    table: str
    quantity: str
    stem: str

    def values(self, rows: Sequence[Row]) -> list[float]:
        return [row[f"{self.stem}_pct"] for row in rows]

    def measured(self, rows: Sequence[Row]) -> Measured:
        """One seed with its interval; of several seeds the mean, from three on with the interval over the seeds."""
        values = self.values(rows)
        if len(rows) == 1:
            return Measured(values[0], *self.ends(rows))
        span = over_seeds([1.0], [values])
        return Measured(float(np.mean(values)), span.low if span else None, span.high if span else None)

    def ends(self, rows: Sequence[Row]) -> tuple[float, float]:
        """The lowest and the highest end of the intervals of the single networks."""
        lows, highs = ([row[f"{self.stem}_{end}_pct"] for row in rows] for end in ("low", "high"))
        return min(lows), max(highs)


TOP1 = _Kind("accuracy", "top-1 (%)", "top1")
MEAN_IOU = _Kind("segmentation", "mIoU (%)", "mean_iou")


def accuracy_lines(first: Side, second: Side) -> Iterator[ComparedLine]:
    """The lines of top-1 and of mIoU."""
    for kind in (TOP1, MEAN_IOU):
        parts = [
            grouped(side.results.rows(kind.table), lambda row: (row["model"], row["form"])) for side in (first, second)
        ]
        refused: dict[str, list[str]] = {}
        for model, form in (key for key in parts[0] if key in parts[1]):
            rows = [part[model, form] for part in parts]
            lines = list(_network_lines(kind, rows[0], rows[1]))
            yield from lines
            if not lines:
                refused.setdefault(_why_not(rows[0], rows[1]), []).append(f"{model} {form}")
        for reason, subjects in refused.items():
            yield ComparedLine(kind.table, ", ".join(subjects), "", kind.quantity, note=reason)


def _network_lines(kind: _Kind, first: list[Row], second: list[Row]) -> Iterator[ComparedLine]:
    def same(row: Row) -> tuple:
        start = row.get("backbone_sha256")
        return (*(row[name] for name in SAME), "random" if start == "random" else "trained")

    parts = grouped(first, same), grouped(second, same)
    for key in (key for key in parts[0] if key in parts[1]):
        for mine, other in _pairs_of_trainings(parts[0][key], parts[1][key]):
            yield from _lines_of_pair(kind, mine, other)


def _pairs_of_trainings(first: list[Row], second: list[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """The trainings of both sides in pairs: of one digest, else of one recipe, else the only one of each side."""

    def training(row: Row) -> tuple:
        return (row["recipe"], row["training_digest"])

    mine, others = grouped(first, training), grouped(second, training)
    for key, rows in mine.items():
        recipe = [other for other in others if other[0] == key[0]]
        alone = list(others) if len(mine) == len(others) == 1 else []
        match = key if key in others else next(iter(recipe or alone), None)
        if match is not None:
            yield rows, others[match]


def _lines_of_pair(kind: _Kind, first: list[Row], second: list[Row]) -> Iterator[ComparedLine]:
    """One line for each interval that the rows allow: over images, and over training seeds."""
    row = first[0]
    spans, notes = _spans(kind, first, second)
    change = float(np.mean(kind.values(second)) - np.mean(kind.values(first)))
    for span, method in spans:
        note = "; ".join([*notes, *([span.note] if span and span.note else [])])
        yield ComparedLine(
            kind.table,
            f"{row['model']} {row['form']}",
            f"{describe_network(row)}, {row['protocol']}",
            kind.quantity,
            kind.measured(first),
            kind.measured(second),
            Measured(change, span.low if span else None, span.high if span else None),
            method,
            note=note,
        )


def _spans(kind: _Kind, first: list[Row], second: list[Row]) -> tuple[list[tuple[Span | None, str]], list[str]]:
    """The intervals of a difference, each with its method, and the notes on it."""
    notes = _notes(first, second)
    if _is_one_network(first, second) and sorted(kind.values(first)) == sorted(kind.values(second)):
        return [(Span("new images", 0.0, 0.0), "difference of a network from itself")], notes
    spans: list[tuple[Span | None, str]] = []
    try:
        spans.append((_paired(kind, first, second), "difference, paired over the same images"))
    except NotAvailable as reason:
        if kind is TOP1:
            spans.append((_newcombe(kind, first, second), "difference, independent images (Newcombe)"))
        else:
            spans.append((None, "difference without an interval"))
        notes.append(f"not paired: {reason}")
    seeds = over_seeds([1.0, -1.0], [kind.values(second), kind.values(first)])
    if seeds is not None:
        spans.append((seeds, "difference, over training seeds (Welch)"))
    return spans, notes


def _paired(kind: _Kind, first: list[Row], second: list[Row]) -> Span:
    if kind is MEAN_IOU:
        return mean_iou.over_images([1.0, -1.0], [second, first])
    return over_same_images([1.0, -1.0], [second, first])


def _newcombe(kind: _Kind, first: list[Row], second: list[Row]) -> Span:
    """Newcombe's interval of a difference of two shares, from their Wilson intervals (1998, method 10)."""
    (low, high), (other_low, other_high) = kind.ends(first), kind.ends(second)
    value, other = (float(np.mean(kind.values(rows))) for rows in (first, second))
    change = other - value
    down = np.hypot(other - other_low, high - value)
    up = np.hypot(other_high - other, value - low)
    return Span("new images", float(change - down), float(change + up))


def _notes(first: list[Row], second: list[Row]) -> list[str]:
    notes = []
    if _is_one_network(first, second):
        notes.append("the same weights")
    recipes = [rows[0]["recipe"] for rows in (first, second)]
    digests = [rows[0]["training_digest"] for rows in (first, second)]
    if recipes[0] != recipes[1]:
        notes.append(f"recipes {recipes[0]} and {recipes[1]}")
    elif digests[0] != digests[1]:
        notes.append(f"settings of {recipes[0]} differ (training digests {digests[0]} and {digests[1]})")
    counts = [len(rows) for rows in (first, second)]
    if max(counts) > 1:
        notes.append(f"{counts[0]} and {counts[1]} seeds")
    return notes


def _is_one_network(first: list[Row], second: list[Row]) -> bool:
    return {row["weights_sha256"] for row in first} == {row["weights_sha256"] for row in second}


def _why_not(first: list[Row], second: list[Row]) -> str:
    words = [f"{describe_network(rows[0])}, {rows[0]['protocol']}" for rows in (first, second)]
    if words[0] == words[1]:
        recipes = [", ".join(sorted({row["recipe"] or "none" for row in rows})) for rows in (first, second)]
        return f"not compared: no recipe in common ({recipes[0]} and {recipes[1]})"
    return f"not compared: other images, network or protocol ({words[0]} and {words[1]})"
