"""In: accuracy rows. Out: the accuracy columns of a table: ours on the paper's images, and those on other images.

With at least 3 seeds the interval is a t interval over the trainings; else it is the Wilson interval of one network.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repvgg_companion.contract import read_rows
from repvgg_companion.paper.checks import World
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.inference import over_seeds
from repvgg_companion.paper.measured import Results, Row, accuracy_rows, describe_network, is_paper_data


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in percent over the seeds of one training: mean, 95 % interval, single values, best epoch, network."""

    top1: float
    low: float
    high: float
    seeds: tuple[float, ...]
    best_epoch: float | None
    network: str


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
        float(np.mean(values)), low, high, values, float(np.mean(best)) if best else None, describe_network(rows[0])
    )


def other_accuracies(results: Results) -> dict[str, dict[str, Accuracy]]:
    """Accuracies on other images than the paper's, by prefix (`demo`, `small`) and model.

    Of several trainings of a model the one with the most seeds is taken; the deploy form before the train form.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in results.rows("accuracy"):
        if not is_paper_data(row) and prefix_of(row["dataset"]) != "ours":
            key = (prefix_of(row["dataset"]), row["model"], row["form"], row["training_digest"], row["width"],
                   row["protocol"])  # fmt: skip
            groups.setdefault(key, []).append(row)
    found: dict[str, dict[str, Accuracy]] = {}
    for key, rows in sorted(groups.items(), key=lambda item: (item[0][2] != "deploy", -len(item[1]), str(item[0]))):
        found.setdefault(key[0], {}).setdefault(key[1], summarised(rows))
    return found


def accuracy_columns(world: World, quantity: Quantity, notes: list[str]) -> Row:
    """The accuracy columns of one model; what is empty adds its reason to `notes`."""
    ours = None
    try:
        ours = summarised(accuracy_rows(world.results, world.facts, quantity))
    except NotAvailable as reason:
        # Without the name one note serves all rows of a table.
        words = str(reason).replace(f"{quantity.subject} was", "it was").replace(f" of {quantity.subject}", "")
        notes.append(f"ours_top1: {words}")
    columns = _columns("ours", ours)
    for prefix, models in sorted(other_accuracies(world.results).items()):
        other = models.get(quantity.subject)
        columns |= _columns(prefix, other) | {f"{prefix}_network": other.network if other else None}
        if other is None:
            notes.append(f"{prefix}_top1: it was not trained")
    return columns


def _columns(prefix: str, accuracy: Accuracy | None) -> Row:
    return {
        f"{prefix}_top1_pct": accuracy.top1 if accuracy else None,
        f"{prefix}_top1_low_pct": accuracy.low if accuracy else None,
        f"{prefix}_top1_high_pct": accuracy.high if accuracy else None,
        f"{prefix}_seeds": len(accuracy.seeds) if accuracy else None,
        f"{prefix}_best_epoch_top1_pct": accuracy.best_epoch if accuracy else None,
    }


def history_path(row: Row) -> Path:
    """The history CSV of the training behind a row: `results/weights/DATASET/MODEL/DIGEST/seedK/history.csv`."""
    weights = Path(row["_folder"]).parent / "weights"
    return (
        weights
        / str(row["dataset"])
        / row["model"]
        / str(row["training_digest"])
        / f"seed{row['seed']}"
        / "history.csv"
    )


def _best_epoch(row: Row) -> float | None:
    path = history_path(row)
    if not path.exists():
        return None
    return max((epoch["val_top1_pct"] for epoch in read_rows(path, "history")), default=None)
