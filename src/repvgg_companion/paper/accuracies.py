"""In: accuracy rows. Out: the accuracy columns of a table: ours on the paper's images, and those on other images.

With at least 3 seeds the interval is a t interval over the trainings; else it is the Wilson interval of one network.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repvgg_companion.contract import read_rows
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.inference import over_seeds
from repvgg_companion.paper.named_checks import Evidence
from repvgg_companion.paper.ours import Results, Row, accuracy_rows, describe_network


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
    )


def other_accuracies(
    results: Results, models: Collection[str], *, one_recipe: bool = False
) -> dict[str, dict[str, Accuracy]]:
    """Accuracies of `models` on other images than the paper's, by prefix (`demo`, `small`) and model.

    Of several trainings of a model that of the recipe which covers most of `models` is taken, because only accuracies
    of one recipe can be compared; with `one_recipe` the models that it does not cover are left out. Then the most seeds
    and the deploy form decide.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in results.rows("accuracy"):
        if row["model"] in models and prefix_of(row["dataset"]) != "ours":
            key = (prefix_of(row["dataset"]), row["recipe"], row["model"], row["form"], row["training_digest"],
                   row["width"], row["protocol"])  # fmt: skip
            groups.setdefault(key, []).append(row)
    covered: dict[tuple[str, str], set[str]] = {}
    for prefix, recipe, model, *_ in groups:
        covered.setdefault((prefix, recipe), set()).add(model)
    found: dict[str, dict[str, Accuracy]] = {}
    for prefix in sorted({key[0] for key in groups}):
        recipes = {recipe: members for (own, recipe), members in covered.items() if own == prefix}
        main = min(recipes, key=lambda recipe: (-len(recipes[recipe]), recipe))
        own = {key: rows for key, rows in groups.items() if key[0] == prefix and (key[1] == main or not one_recipe)}
        ranked = sorted(own, key=lambda key: (key[1] != main, key[3] != "deploy", -len(own[key]), str(key)))
        chosen: dict[str, Accuracy] = {}
        for key in ranked:
            chosen.setdefault(key[2], summarised(own[key]))
        found[prefix] = chosen
    return found


def accuracy_columns(evidence: Evidence, quantity: Quantity, notes: list[str], models: Collection[str]) -> Row:
    """The accuracy columns of one of the `models` of a table; what is empty adds its reason to `notes`."""
    ours = None
    try:
        ours = summarised(accuracy_rows(evidence.results, evidence.facts, quantity))
    except NotAvailable as reason:
        # Without the name one note serves all rows of a table.
        words = str(reason).replace(f"{quantity.subject} was", "it was").replace(f" of {quantity.subject}", "")
        notes.append(f"ours_top1: {words}")
    columns = _columns("ours", ours)
    for prefix, found in other_accuracies(evidence.results, models).items():
        other = found.get(quantity.subject)
        columns |= _columns(prefix, other) | {
            f"{prefix}_recipe": other.recipe if other else None,
            f"{prefix}_network": other.network if other else None,
        }
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
