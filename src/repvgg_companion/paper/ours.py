"""Our values of the quantities, read from the tables of `results/EXPERIMENT`, or the reason why there is none.

Only what was measured on the paper's images with the paper's network counts for an accuracy: dataset imagenet, width 1,
1000 classes, all 50 000 validation images. Speeds need the paper's network and input size, not its images.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import predictions_of
from repvgg_companion.models.names import MODELS, ModelSpec, require_model
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.printed import Facts

PAPER_DATASET = "imagenet"
PAPER_SEGMENTATION = "cityscapes"
VALIDATION_IMAGES = 50_000
Row = dict[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Results:
    """The tables of one experiment; a folder without tables of its own may hold one folder per device."""

    folder: Path
    _tables: dict[str, list[Row]] = field(default_factory=dict, compare=False, repr=False)

    def rows(self, table: str) -> list[Row]:
        """All rows of a table of the contract; empty where it was not measured."""
        if table not in self._tables:
            own = self.folder / f"{table}.csv"
            paths = [own] if own.exists() else sorted(self.folder.glob(f"*/{table}.csv"))
            self._tables[table] = [row | {"_folder": path.parent} for path in paths for row in read_rows(path, table)]
        return self._tables[table]

    @cached_property
    def other_datasets(self) -> list[str]:
        """Names of datasets other than the paper's that accuracies were measured on."""
        found = {row["dataset"] for row in self.rows("accuracy") if not is_paper_data(row)}
        return sorted(found | {row["dataset"] for row in self.rows("segmentation")} - {PAPER_SEGMENTATION})


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> dict[Any, list[Item]]:
    """Items such as rows by a key, in the order in which the keys appear."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def is_paper_data(row: Row) -> bool:
    """Whether an accuracy belongs to the paper's dataset and to the paper's network."""
    return row["dataset"] == PAPER_DATASET and is_paper_network(row)


def is_paper_network(row: Row) -> bool:
    """Whether a row belongs to a network at full width with the paper's number of classes."""
    spec = MODELS.get(row["model"])
    return row["width"] == 1 and row["num_classes"] == (spec.num_classes if spec else 1000)


def is_paper_speed(row: Row) -> bool:
    """Whether a speed belongs to the paper's network at the paper's input size."""
    spec = MODELS.get(row["model"])
    return is_paper_network(row) and row["input_px"] == (spec.input_px if spec else 224)


def describe_network(row: Row) -> str:
    """`demo-digits, width 0.25, 10 classes, 32 px`: the network and the images that a row belongs to."""
    return f"{row['dataset']}, width {row['width']:g}, {row['num_classes']} classes, {row['input_px']} px"


def is_released(row: Row) -> bool:
    """Whether a row belongs to imported weights."""
    return str(row["training_digest"] or "").startswith("released")


@dataclass(frozen=True)
class Reading:
    """Our value of a quantity with the rows that it rests on; `seeds` are the values of single trainings."""

    value: float
    rows: tuple[Row, ...]
    evidence: tuple[str, ...]
    seeds: tuple[float, ...] = ()
    released: bool = False
    exact: bool = False


def count(results: Results, quantity: Quantity) -> Reading:
    """Parameters, FLOPs or Wino MULs from complexity.csv, else counted now; members and layers are always counted."""
    spec = _known(quantity.subject)
    if quantity.name in ("members", "layers"):
        from repvgg_companion.paper import structure

        detail = quantity.qualifiers[0]
        if quantity.name == "members":
            value = structure.ensemble_members(spec.name, int(detail.removeprefix("stage")))
        else:
            value = structure.main_path_layers(spec.name, int(detail.split("x")[0]))
        return Reading(float(value), (), (f"walk of {spec.name}",), exact=True)
    if quantity.form == "deploy" and not spec.convertible:
        raise NotAvailable(f"{spec.name} has no deploy form: {spec.reason_not_convertible}")
    column = {"params": "params", "flops": "flops", "wino": "wino_muls"}[quantity.name]
    rows: tuple[Row, ...] = ()
    for row in results.rows("complexity"):
        own = row["model"] == spec.name and row["form"] == quantity.form
        if own and is_paper_network(row) and row["input_px"] == spec.input_px:
            value, evidence, rows = row[column], f"complexity.csv {spec.name} {quantity.form}", (row,)
            break
    else:
        from repvgg_companion.complexity.count_complexity import count_model

        value = getattr(count_model(spec.name, form=quantity.form), column)
        evidence = f"count of {spec.name} {quantity.form}"
    if value is None:
        raise NotAvailable(f"{spec.name} has no convolution that counts as accelerated")
    return Reading(float(value), rows, (evidence,), exact=True)


def traced(value: str, rows: Iterable[Row], names: Sequence[str] = ("form", "weights_sha256", "run_id")) -> Row:
    """The columns `VALUE_form`, `VALUE_weights_sha256` and `VALUE_run_id` of the rows that a value rests on."""
    rows = list(rows)
    return {f"{value}_{name}": " ".join(dict.fromkeys(row[name] for row in rows)) or None for name in names}


def accuracy_groups(results: Results, facts: Facts, quantity: Quantity) -> list[list[Row]]:
    """The rows of accuracy.csv behind a top-1: groups of one training, form and protocol, one row per seed, best first.

    Raises NotAvailable with the reason if there are none.
    """
    name = quantity.subject
    if name not in MODELS:
        raise NotAvailable(f"{name} is not built by this companion")
    spec = require_model(name)
    mine = [row for row in results.rows("accuracy") if row["model"] == name]
    wanted_px = quantity.input_px or spec.test_px
    found = [row for row in mine if is_paper_data(row) and row["input_px"] == wanted_px]
    found = [row for row in found if wanted_px != 224 or row["protocol"].startswith("resize256-crop224-bilinear")]
    if quantity.recipe:
        found = [row for row in found if recipe_of(row, facts) == quantity.recipe]
    if quantity.origin:
        found = [row for row in found if is_released(row) == (quantity.origin == "released")]
    if not found:
        raise NotAvailable(_why_no_accuracy(mine, quantity, wanted_px))
    complete = [row for row in found if row["n_images"] == VALIDATION_IMAGES]
    if not complete:
        raise NotAvailable(f"{name} was evaluated on {found[0]['n_images']} of the {VALIDATION_IMAGES} images only")

    def weaker_last(row: Row) -> tuple:
        weaker = (not is_released(row), row["form"] != "deploy", "pillow" not in row["protocol"])
        return (*weaker, row["protocol"], row["training_digest"] or "")

    groups = grouped(complete, weaker_last)
    return [sorted(groups[key], key=lambda row: row["seed"] or "") for key in sorted(groups)]


def recipe_of(row: Row, facts: Facts) -> str | None:
    """The paper's recipe of a row; for released weights the one that their authors used."""
    return facts.recipe_of_released(row["model"]) if is_released(row) else row["recipe"]


def _why_no_accuracy(mine: list[Row], quantity: Quantity, wanted_px: int) -> str:
    name = quantity.subject
    if not mine:
        return f"no accuracy of {name} was measured"
    others = [row for row in mine if not is_paper_data(row)]
    if len(others) == len(mine):
        return f"{name} was evaluated on {describe_network(others[0])} only, which decides nothing about ImageNet"
    released = [row for row in mine if is_released(row) and is_paper_data(row)]
    if released and quantity.recipe:
        return f"the released weights of {name} are those of another recipe than {quantity.recipe}"
    wanted = " ".join(filter(None, (quantity.recipe, quantity.origin, f"at {wanted_px} px by the paper's protocol")))
    return f"no accuracy of {name} on ImageNet for {wanted}"


def accuracy_reading(quantity: Quantity, rows: list[Row]) -> Reading:
    """A top-1 or mIoU in percent from the rows of the seeds of one training: their mean."""
    table, column = ("accuracy", "top1_pct") if quantity.name == "top1" else ("segmentation", "mean_iou_pct")
    values = tuple(row[column] for row in rows)
    evidence = accuracy_sources(rows, table)
    return Reading(float(np.mean(values)), tuple(rows), evidence, values, is_released(rows[0]))


def accuracy_sources(rows: Iterable[Row], table: str = "accuracy") -> tuple[str, ...]:
    """`accuracy.csv MODEL RECIPE DIGEST FORM seed K`: which rows accuracies are."""
    return tuple(
        f"{table}.csv {row['model']} {row['recipe']} {row['training_digest']} {row['form']} seed {row['seed']}"
        for row in rows
    )


def predictions_path(row: Row) -> Path:
    """The file of predictions per image behind a row of accuracy.csv or segmentation.csv."""
    return Path(row["_folder"]) / "predictions" / predictions_of(row)


def correct_images(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Per image the share of the rows' networks that put its label first, and the labels; each [n].

    Raises NotAvailable if predictions are missing or do not give the row's accuracy.
    """
    from repvgg_companion.evaluation.predictions import read_predictions

    shares: list[np.ndarray] = []
    labels: np.ndarray | None = None
    for row in rows:
        path = predictions_path(row)
        if not path.exists():
            raise NotAvailable(f"the predictions per image of {row['model']} are missing")
        predictions = read_predictions(path)
        own, correct = predictions.labels, predictions.correct.astype(np.float64)
        if abs(100 * correct.mean() - row["top1_pct"]) > 1e-6:
            raise NotAvailable(
                f"the predictions of {row['model']} give {100 * correct.mean():.3f} %, accuracy.csv "
                f"{row['top1_pct']:.3f} %"
            )
        if labels is not None and not np.array_equal(labels, own):
            raise NotAvailable("the predictions belong to different images")
        shares.append(correct)
        labels = own
    if labels is None:
        raise NotAvailable("no predictions were given")
    return np.mean(shares, axis=0), labels


def _known(name: str) -> ModelSpec:
    try:
        return require_model(name)
    except CompanionError as error:
        raise NotAvailable(str(error)) from None
