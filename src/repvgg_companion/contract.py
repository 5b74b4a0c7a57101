"""The results contract: the columns of every CSV, what their values must satisfy, one writer and one reader.

A row is a flat dict with units in its keys. Files are tidy, sorted, UTF-8 with LF; an empty cell is a missing value.
Percentages are 0 to 100.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import csv_text, read_csv, write_text
from repvgg_companion.identity import FORMS, MODEL_PATTERN

NOT_TESTED = "not tested"
NUMBER_VERDICTS = ("met", "not met", "open", NOT_TESTED)
"""Verdicts on a claim's printed number or order."""
INFERENCE_VERDICTS = ("reproduced", "contradicted", "not met", "inconclusive", NOT_TESTED)
"""Verdicts on a claim beyond our sample; "not met" if it fails on another device or batch than the paper's."""
ROUNDING = 1e-9
"""Rounding may put the columns of an interval out of order by this much."""


@dataclass(frozen=True)
class Column:
    """One column: its name, its type (`str`, `int`, `float` or `bool`), whether it may be empty, and its values."""

    name: str
    type: type
    optional: bool = False
    low: float | None = None
    high: float | None = None
    pattern: str | None = None
    """A regular expression that the whole text of a cell must match."""


@dataclass(frozen=True)
class Table:
    """One table: its columns in file order, the key that no two rows share, and columns that must ascend in a row."""

    columns: list[Column]
    key: tuple[str, ...] = ()
    ascending: tuple[tuple[str, ...], ...] = ()

    @property
    def names(self) -> list[str]:
        """The column names in file order."""
        return [column.name for column in self.columns]


def _text(*names: str, optional: bool = False) -> list[Column]:
    return [Column(name, str, optional) for name in names]


def _number(*names: str, optional: bool = False, low: float | None = None, high: float | None = None) -> list[Column]:
    return [Column(name, float, optional, low, high) for name in names]


def _count(*names: str, optional: bool = False, low: float | None = 0) -> list[Column]:
    return [Column(name, int, optional, low) for name in names]


_NETWORK = [
    *_text("experiment"),
    *_text("dataset", optional=True),
    Column("model", str, pattern=MODEL_PATTERN),
    *_text("base_model"),
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
_FORM = Column("form", str, pattern="|".join(FORMS))
_WEIGHTS_ROW = [*_NETWORK, *_WEIGHTS, *_RUN]
_WEIGHTS_KEY = ("model", "width", "training_digest", "seed")

TABLES: dict[str, Table] = {
    "history": Table(
        [
            *_count("epoch", low=1),
            *_number("learning_rate", "train_loss", low=0),
            *_number("train_top1_pct", low=0, high=100),
            *_number("val_top1_pct", optional=True, low=0, high=100),
            *_number("images_per_s", "elapsed_s", low=0),
        ],
        key=("epoch",),
    ),
    "reparameterization": Table(
        [
            *_WEIGHTS_ROW,
            *_number("float64_max_relative_error", low=0),
            Column("file_matches_conversion", bool),
            *_number("float32_max_relative_error", low=0),
            *_count("prediction_flips", "n_inputs", "train_params", "deploy_params"),
            *_text("train_sha256", "deploy_sha256"),
            Column("passed", bool),
        ],
        key=_WEIGHTS_KEY,
    ),
    "accuracy": Table(
        [
            *_WEIGHTS_ROW,
            _FORM,
            *_text("protocol"),
            *_count("input_px", "n_images", low=1),
            *_number("top1_pct", "top1_low_pct", "top1_high_pct", "top5_pct", low=0, high=100),
        ],
        key=(*_WEIGHTS_KEY, "form", "protocol"),
        ascending=(("top1_low_pct", "top1_pct", "top1_high_pct"), ("top1_pct", "top5_pct")),
    ),
    "segmentation": Table(
        [
            *_WEIGHTS_ROW,
            _FORM,
            *_text("protocol", "backbone_sha256"),
            *_count("input_px", "n_images", low=1),
            *_number("mean_iou_pct", "mean_iou_low_pct", "mean_iou_high_pct", "pixel_accuracy_pct", low=0, high=100),
        ],
        key=(*_WEIGHTS_KEY, "form", "protocol"),
        ascending=(("mean_iou_low_pct", "mean_iou_pct", "mean_iou_high_pct"),),
    ),
    "complexity": Table(
        [
            *_NETWORK,
            *_RUN,
            _FORM,
            *_count("params", "flops"),
            *_number("wino_muls", optional=True, low=0),
            *_count("input_px", low=1),
        ],
        key=("model", "width", "num_classes", "form", "input_px"),
    ),
    "speed": Table(
        [
            *_WEIGHTS_ROW,
            _FORM,
            *_text("device", "protocol", "precision", "memory_format", "backend"),
            *_count("batch_size", "input_px", "params", low=1),
            *_number("examples_per_s", "low_examples_per_s", "high_examples_per_s", optional=True, low=0),
            *_number("p10_examples_per_s", "p90_examples_per_s", optional=True, low=0),
            *_count("n_samples"),
            *_number("peak_memory_mib", "roofline_share", optional=True, low=0),
            *_text("flags", optional=True),
        ],
        ascending=(
            ("low_examples_per_s", "examples_per_s", "high_examples_per_s"),
            ("p10_examples_per_s", "examples_per_s", "p90_examples_per_s"),
        ),
    ),
    "kernel_size": Table(
        [
            *_text("experiment", "run_id", "device", "protocol", "precision", "memory_format", "backend"),
            *_count("kernel_size", "batch_size", "channels", "resolution_px", low=1),
            *_number("time_ms", "low_ms", "high_ms", "tflops", optional=True, low=0),
            *_count("n_samples"),
            *_text("flags", optional=True),
        ],
        ascending=(("low_ms", "time_ms", "high_ms"),),
    ),
    "peers": Table(
        [
            *_text("experiment", "run_id", "device"),
            Column("model", str, pattern=MODEL_PATTERN),
            *_text("work", "precision"),
            *_count("batch_size", "input_px", low=1),
            *_text("way"),
            *_number("examples_per_s", "low_examples_per_s", "high_examples_per_s", optional=True, low=0),
            *_count("n_samples"),
            *_number("over_timm", "low_over_timm", "high_over_timm", optional=True, low=0),
            *_text("flags", optional=True),
        ],
        key=("run_id", "model", "work", "precision", "batch_size", "input_px", "way"),
        ascending=(
            ("low_examples_per_s", "examples_per_s", "high_examples_per_s"),
            ("low_over_timm", "over_timm", "high_over_timm"),
        ),
    ),
    "memory": Table(
        [
            *_NETWORK,
            *_RUN,
            _FORM,
            *_text("device", "layer"),
            *_count("batch_size", "input_px", low=1),
            *_number("live_feature_map_mib", "peak_mib", optional=True, low=0),
        ]
    ),
    "claims": Table(
        [
            *_text("id", "claim", "kind", "condition"),
            *_text("paper_value", "our_value", optional=True),
            *_number("low", "high", "tolerance", optional=True),
            Column("verdict_number", str, pattern="|".join(NUMBER_VERDICTS)),
            Column("verdict_inference", str, pattern="|".join(INFERENCE_VERDICTS)),
            *_text("dataset", "device", "precision", "backend", optional=True),
            *_count("batch_size", optional=True, low=1),
            *_text("reason"),
            *_text("flags", "evidence", optional=True),
        ],
        key=("id", "device", "precision", "backend"),
    ),
    "comparison": Table(
        [
            *_text("section", "subject"),
            *_text("setting", optional=True),
            *_text("quantity"),
            *_number("a", "a_low", "a_high", "b", "b_low", "b_high", optional=True),
            *_number("change", "change_low", "change_high", optional=True),
            *_text("method", "a_verdict", "b_verdict", "note", optional=True),
        ]
    ),
}


def write_rows(path: str | Path, table: str, rows: Iterable[Mapping[str, Any]], *, keep_order: bool = False) -> None:
    """Write checked rows of `table` as CSV by rename, sorted by their columns from left to right.

    Raises CompanionError naming the row and column if a row does not fit the contract; nothing is written then.
    """
    names = TABLES[table].names
    checked = []
    for number, row in enumerate(rows, start=1):
        if unknown := sorted(set(row) - set(names)):
            raise CompanionError(f"{path}: row {number} has columns {unknown} that table {table} does not define")
        checked.append(_checked(path, number, table, row))
    _require_unique(path, table, checked)
    cells = [list(row.values()) for row in checked]
    if not keep_order:
        cells.sort(key=lambda row: [_sort_key(value) for value in row])
    write_text(path, csv_text([names, *(map(_text_of, row) for row in cells)]))


def read_rows(path: str | Path, table: str) -> list[dict[str, Any]]:
    """Read rows of `table` with their types; an empty cell is None.

    Raises CompanionError naming the row and column if the file does not fit the contract.
    """
    columns = {column.name: column for column in TABLES[table].columns}
    try:
        header, lines = read_csv(path)
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist") from None
    if header != list(columns):
        raise CompanionError(
            f"{path}: the columns are not those of table {table}; another version wrote it, so make it again"
        )
    rows = [
        _checked(path, number, table, {name: _parsed(columns[name], row[name]) for name in columns})
        for number, (_, row) in enumerate(lines, start=1)
    ]
    _require_unique(path, table, rows)
    return rows


def _checked(path: str | Path, number: int, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """One row with all its columns, in file order."""
    checked = {column.name: _cell(path, number, column, row.get(column.name)) for column in TABLES[table].columns}
    for names in TABLES[table].ascending:
        for low, high in pairwise(names):
            # A row that could not be measured has empty cells and gives the reason in its flags.
            if None not in (checked[low], checked[high]) and checked[low] > checked[high] + ROUNDING:
                raise CompanionError(f"{path}: row {number}: {' <= '.join(names)} does not hold")
    return checked


def _require_unique(path: str | Path, table: str, rows: list[dict[str, Any]]) -> None:
    key = TABLES[table].key
    seen: dict[tuple, int] = {}
    for number, row in enumerate(rows if key else [], start=1):
        values = tuple(row[name] for name in key)
        if values in seen:
            said = ", ".join(f"{name} {value}" for name, value in zip(key, values, strict=True) if value is not None)
            raise CompanionError(f"{path}: rows {seen[values]} and {number} are both for {said}; keep one of them")
        seen[values] = number


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
        if column.pattern and not re.fullmatch(column.pattern, str(value)):
            raise CompanionError(f"{where} is {value!r}, which does not match {column.pattern}")
        return str(value)
    if isinstance(value, bool | str) or (column.type is int and value != int(value)):
        raise CompanionError(f"{where} is {value!r} instead of a number of type {column.type.__name__}")
    value = column.type(value)
    if not math.isfinite(value):
        raise CompanionError(f"{where} is {value!r}, which is not a finite number")
    if (column.low is not None and value < column.low) or (column.high is not None and value > column.high):
        raise CompanionError(f"{where} is {value!r}, outside {column.low} to {column.high}")
    return value


def _sort_key(value: Any) -> tuple:
    if value is None:
        return (0, "")
    if isinstance(value, str):
        return (2, value)
    return (1, value)


def _text_of(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def with_interval(value: str, low: float | str | None, high: float | str | None) -> str:
    """`VALUE [LOW, HIGH]`; a value that names its intervals already, or has none, is left as it is.

    Ends in the text of a file stay as they are. The interval of two accuracies, `73.1 vs 72.4`, is that of their
    difference.
    """
    if low in (None, "") or high in (None, "") or "[" in value:
        return value
    about = ", difference" if " vs " in value and "ratio" not in value else ""
    return f"{value}{about} [{', '.join(end if isinstance(end, str) else f'{end:.4g}' for end in (low, high))}]"
