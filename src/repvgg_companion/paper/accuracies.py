"""Accuracies that tables and figures show: ours on the paper's images, and those on other images.

With at least 3 seeds the interval is a t interval over the trainings; otherwise it is the Wilson interval of one
network.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repvgg_companion.contract import ROUNDING, read_rows
from repvgg_companion.identity import weights_folder
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.inference import over_seeds
from repvgg_companion.paper.ours import Results, Row, describe_network, grouped, traced


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in percent over the seeds of one training: mean, 95 % interval, single values, best epoch; of what."""

    top1: float
    low: float
    high: float
    seeds: tuple[float, ...]
    best_epoch: float | None
    network: str
    recipe: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparable:
    """Accuracies by model that may be compared with each other, and those of other models, which may not."""

    accuracies: dict[str, Accuracy]
    others: dict[str, Accuracy]


def prefix_of(dataset: str) -> str:
    """`ours` for the paper's images, `demo` for the embedded digits, `small` for any other images."""
    return "ours" if dataset == "imagenet" else "demo" if dataset.startswith("demo") else "small"


def summarised(rows: list[Row]) -> Accuracy:
    """One accuracy from the rows of the seeds of one training."""
    values = tuple(row["top1_pct"] for row in rows)
    span = over_seeds([1.0], [values])
    low, high = (span.low, span.high) if span else (rows[0]["top1_low_pct"], rows[0]["top1_high_pct"])
    if span is None and len(rows) > 1:
        low, high = min(row["top1_low_pct"] for row in rows), max(row["top1_high_pct"] for row in rows)
    best = [value for row in rows if (value := _best_epoch(row)) is not None]
    return Accuracy(
        float(np.mean(values)),
        low,
        high,
        values,
        float(np.mean(best)) if best else None,
        describe_network(rows[0]),
        rows[0]["recipe"] or "",
        tuple(rows),
    )


def other_accuracies(results: Results, models: Collection[str]) -> dict[str, Comparable]:
    """Accuracies of `models` on other images than the paper's, by prefix (`demo`, `small`).

    Accuracies are comparable only within one setting: dataset, width, classes, input size, recipe and protocol. The
    setting that covers the most models is taken, then the one with the most rows. Of several trainings of a model in
    one setting, the deploy form and then the most seeds decide.
    """
    settings: dict[str, dict[tuple, dict[str, list[Row]]]] = {}
    for row in results.rows("accuracy"):
        prefix = prefix_of(row["dataset"])
        if row["model"] in models and prefix != "ours":
            setting = (describe_network(row), row["recipe"] or "", row["protocol"])
            members = settings.setdefault(prefix, {}).setdefault(setting, {})
            members.setdefault(row["model"], []).append(row)
    found = {}
    for prefix, by_setting in sorted(settings.items()):
        first, *rest = sorted(by_setting.values(), key=lambda part: (-len(part), -sum(map(len, part.values()))))
        others: dict[str, Accuracy] = {}
        for part in rest:
            others |= {model: _summarised_best(rows) for model, rows in part.items() if model not in {*first, *others}}
        found[prefix] = Comparable({model: _summarised_best(rows) for model, rows in first.items()}, others)
    return found


def _summarised_best(rows: list[Row]) -> Accuracy:
    trainings = grouped(rows, lambda row: (row["form"] != "deploy", row["training_digest"]))
    return summarised(trainings[min(trainings, key=lambda key: (key[0], -len(trainings[key]), str(key)))])


def accuracy_columns(evidence: Evidence, quantity: Quantity, notes: list[str], models: Collection[str]) -> Row:
    """The accuracy columns of one of the `models` of a table; the reason of an empty one is added to `notes`."""
    ours = None
    try:
        ours = summarised(list(evidence.read(quantity).rows))
    except NotAvailable as reason:
        # Without the name one note serves all rows of a table.
        words = str(reason).replace(f"{quantity.subject} was", "it was").replace(f" of {quantity.subject}", "")
        notes.append(f"ours_top1: {words}")
    columns = _columns("ours", ours, notes)
    for prefix, found in other_accuracies(evidence.results, models).items():
        other = found.accuracies.get(quantity.subject) or found.others.get(quantity.subject)
        columns |= _columns(prefix, other, notes) | {
            f"{prefix}_recipe": other.recipe if other else None,
            f"{prefix}_network": other.network if other else None,
        }
        if other is None:
            notes.append(f"{prefix}_top1: it was not trained")
        elif quantity.subject in found.others:
            notes.append(f"{prefix}_top1: not comparable with the others, whose recipe, network or protocol differs")
    return columns


def _columns(prefix: str, accuracy: Accuracy | None, notes: list[str]) -> Row:
    if accuracy is not None and accuracy.best_epoch is not None and accuracy.best_epoch < accuracy.top1 - ROUNDING:
        notes.append(f"{prefix}_best_epoch: it lies below the final top-1, because the validation after each epoch "
                     "may decode images otherwise than the evaluation")  # fmt: skip
    return {
        f"{prefix}_top1_pct": accuracy.top1 if accuracy else None,
        f"{prefix}_top1_low_pct": accuracy.low if accuracy else None,
        f"{prefix}_top1_high_pct": accuracy.high if accuracy else None,
        f"{prefix}_seeds": len(accuracy.seeds) if accuracy else None,
        f"{prefix}_best_epoch_top1_pct": accuracy.best_epoch if accuracy else None,
        **traced(f"{prefix}_top1", accuracy.rows if accuracy else ()),
    }


def history_path(row: Row) -> Path:
    """The history CSV of the training behind a row: `results/weights/DATASET/MODEL/DIGEST/seedK/history.csv`."""
    return weights_folder(Path(row["_folder"]), row) / "history.csv"


def _best_epoch(row: Row) -> float | None:
    path = history_path(row)
    if not path.exists():
        return None
    validated = (epoch["val_top1_pct"] for epoch in read_rows(path, "history"))
    return max((accuracy for accuracy in validated if accuracy is not None), default=None)
