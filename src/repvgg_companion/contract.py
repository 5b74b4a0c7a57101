"""The results contract: the columns of every CSV, and the one writer that all verbs use.

A row is a flat dict with units in its keys. Files are tidy, sorted, UTF-8 with LF; an empty cell is a missing value.
Percentages are 0 to 100.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path


@dataclass(frozen=True)
class Column:
    """One column: its name, its type (`str`, `int`, `float` or `bool`), whether it may be empty, and its range."""

    name: str
    type: type
    optional: bool = False
    low: float | None = None
    high: float | None = None


def _text(*names: str, optional: bool = False) -> list[Column]:
    return [Column(name, str, optional) for name in names]


def _number(*names: str, optional: bool = False, low: float | None = None, high: float | None = None) -> list[Column]:
    return [Column(name, float, optional, low, high) for name in names]


def _count(*names: str, optional: bool = False, low: float | None = 0) -> list[Column]:
    return [Column(name, int, optional, low) for name in names]


_NETWORK = [
    *_text("experiment"),
    *_text("dataset", optional=True),
    *_text("model", "base_model"),
    *_text("variation", optional=True),
    *_number("width", low=0),
    *_count("num_classes", low=1),
]
_WEIGHTS = [
    *_text("recipe", "training_digest", optional=True),
    *_text("seed", optional=True),
    *_text("weights_sha256"),
]
_RUN = _text("run_id")
_WEIGHTS_ROW = [*_NETWORK, *_WEIGHTS, *_RUN]

TABLES: dict[str, list[Column]] = {
    "history": [
        *_count("epoch", low=1),
        *_number("learning_rate", "train_loss", low=0),
        *_number("train_top1_pct", "val_top1_pct", low=0, high=100),
        *_number("images_per_s", "elapsed_s", low=0),
    ],
    "reparameterization": [
        *_WEIGHTS_ROW,
        *_number("float64_max_relative_error", low=0),
        Column("file_matches_conversion", bool),
        *_number("float32_max_relative_error", low=0),
        *_count("prediction_flips", "n_inputs", "train_params", "deploy_params"),
        *_text("train_sha256", "deploy_sha256"),
        Column("passed", bool),
    ],
    "accuracy": [
        *_WEIGHTS_ROW,
        *_text("form", "protocol"),
        *_count("input_px", "n_images", low=1),
        *_number("top1_pct", "top1_low_pct", "top1_high_pct", "top5_pct", low=0, high=100),
    ],
    "segmentation": [
        *_WEIGHTS_ROW,
        *_text("form", "protocol", "backbone_sha256"),
        *_count("input_px", "n_images", low=1),
        *_number("mean_iou_pct", "mean_iou_low_pct", "mean_iou_high_pct", "pixel_accuracy_pct", low=0, high=100),
    ],
    "complexity": [
        *_NETWORK,
        *_RUN,
        *_text("form"),
        *_count("params", "flops"),
        *_number("wino_muls", optional=True, low=0),
        *_count("input_px", low=1),
    ],
    "speed": [
        *_WEIGHTS_ROW,
        *_text("form", "device", "protocol", "precision", "memory_format", "backend"),
        *_count("batch_size", "input_px", "params", low=1),
        *_number("examples_per_s", "low_examples_per_s", "high_examples_per_s", optional=True, low=0),
        *_number("p10_examples_per_s", "p90_examples_per_s", optional=True, low=0),
        *_count("n_samples"),
        *_number("peak_memory_mib", "roofline_share", optional=True, low=0),
        *_text("flags", optional=True),
    ],
    "kernel_size": [
        *_text("experiment", "run_id", "device", "protocol", "precision", "memory_format", "backend"),
        *_count("kernel_size", "batch_size", "channels", "resolution_px", low=1),
        *_number("time_ms", "low_ms", "high_ms", "tflops", optional=True, low=0),
        *_count("n_samples"),
        *_text("flags", optional=True),
    ],
    "memory": [
        *_NETWORK,
        *_RUN,
        *_text("form", "device", "layer"),
        *_count("batch_size", "input_px", low=1),
        *_number("live_feature_map_mib", "peak_mib", optional=True, low=0),
    ],
    "claims": [
        *_text("id", "claim", "kind", "condition"),
        *_text("paper_value", "our_value", optional=True),
        *_number("low", "high", "tolerance", optional=True),
        *_text("verdict_number", "verdict_inference"),
        *_text("dataset", "device", "precision", "backend", optional=True),
        *_text("reason"),
        *_text("evidence", optional=True),
    ],
}


def column_names(table: str) -> list[str]:
    """The column names of one table of the contract, in file order."""
    return [column.name for column in TABLES[table]]


def write_rows(path: str | Path, table: str, rows: Iterable[Mapping[str, Any]], *, keep_order: bool = False) -> None:
    """Write rows of `table` as CSV by rename, checked cell by cell and sorted by their columns from left to right.

    Raises CompanionError naming the row and column where a row does not fit the contract.
    """
    columns = TABLES[table]
    names = [column.name for column in columns]
    cells = []
    for number, row in enumerate(rows, start=1):
        if unknown := sorted(set(row) - set(names)):
            raise CompanionError(f"{path}: row {number} has columns {unknown} that table {table} does not define")
        cells.append([_cell(path, number, column, row.get(column.name)) for column in columns])
    if not keep_order:
        cells.sort(key=lambda row: [_sort_key(value) for value in row])
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([["" if value is None else _text_of(value) for value in row] for row in cells])


def read_rows(path: str | Path, table: str) -> list[dict[str, Any]]:
    """Read rows of `table` back with their types; an empty cell is None. Raises CompanionError on a misfit."""
    columns = {column.name: column for column in TABLES[table]}
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames != list(columns):
                raise CompanionError(
                    f"{path}: the columns are not those of table {table}; remove the file and run again"
                )
            return [
                {name: _cell(path, number, columns[name], _parsed(columns[name], text)) for name, text in row.items()}
                for number, row in enumerate(reader, start=1)
            ]
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist") from None


def _parsed(column: Column, text: str | None) -> Any:
    if text is None or text == "":
        return None
    if column.type is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if column.type is str:
        return text
    try:
        return column.type(text)
    except ValueError:
        return text


def _cell(path: str | Path, number: int, column: Column, value: Any) -> Any:
    where = f"{path}: row {number}, column {column.name}"
    if value is None or value == "":
        if not column.optional:
            raise CompanionError(f"{where} is empty")
        return None
    if column.type is bool:
        if not isinstance(value, bool):
            raise CompanionError(f"{where} is {value!r} instead of true or false")
        return value
    if column.type is str:
        return str(value)
    if isinstance(value, bool | str) or (column.type is int and value != int(value)):
        raise CompanionError(f"{where} is {value!r} instead of a number of type {column.type.__name__}")
    value = column.type(value)
    if not math.isfinite(value):
        raise CompanionError(f"{where} is {value!r}, which is no finite number")
    if (column.low is not None and value < column.low) or (column.high is not None and value > column.high):
        raise CompanionError(f"{where} is {value!r}, outside {column.low} to {column.high}")
    return value


def _sort_key(value: Any) -> tuple:
    if value is None:
        return (0, "")
    if isinstance(value, str):
        return (2, value)
    return (1, value)


def _text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
