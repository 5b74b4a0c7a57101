"""The results contract as pandera schemas: every table of `contract.TABLES`, with the rules that span columns."""

from itertools import pairwise
from typing import Any

import pandas as pd
import pandera.pandas as pa

from repvgg_companion.contract import TABLES, Column
from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import FORMS, MODEL_PATTERN

_TYPES: dict[type, str] = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}
_INTERVALS = {
    "accuracy": [("top1_low_pct", "top1_pct", "top1_high_pct"), ("top1_pct", "top5_pct")],
    "segmentation": [("mean_iou_low_pct", "mean_iou_pct", "mean_iou_high_pct")],
    "speed": [
        ("low_examples_per_s", "examples_per_s", "high_examples_per_s"),
        ("p10_examples_per_s", "examples_per_s", "p90_examples_per_s"),
    ],
    "kernel_size": [("low_ms", "time_ms", "high_ms")],
}
_KEYS = {
    "history": ["epoch"],
    "reparameterization": ["model", "width", "training_digest", "seed"],
    "accuracy": ["model", "width", "training_digest", "seed", "form", "protocol"],
    "segmentation": ["model", "width", "training_digest", "seed", "form", "protocol"],
    "complexity": ["model", "width", "num_classes", "form", "input_px"],
    "claims": ["id", "device", "precision", "backend"],
}
_ROUNDING = 1e-9


def schema_of(table: str) -> pa.DataFrameSchema:
    """The pandera schema of one table of the contract."""
    checks = [pa.Check(_ordered(names), error=f"{' <= '.join(names)} does not hold") for names in
              _INTERVALS.get(table, [])]  # fmt: skip
    return pa.DataFrameSchema(
        {column.name: _column(column) for column in TABLES[table]},
        checks=checks,
        unique=_KEYS.get(table),
        strict=True,
        ordered=True,
        name=table,
    )


def checked_frame(rows: list[dict[str, Any]], table: str, origin: str) -> pd.DataFrame:
    """Rows of `contract.read_rows` as a data frame that fits the schema.

    Raises CompanionError naming `origin`, the column and the first value that does not fit.
    """
    names = [column.name for column in TABLES[table]]
    frame = pd.DataFrame(rows, columns=names)
    frame = frame.astype({column.name: _TYPES[column.type] for column in TABLES[table]})
    try:
        return schema_of(table).validate(frame)
    except pa.errors.SchemaError as error:
        detail = " ".join(str(error).split())
        raise CompanionError(f"{origin} does not fit the contract of table {table}: {detail[:400]}") from None


def _column(column: Column) -> pa.Column:
    checks = []
    if column.low is not None:
        checks.append(pa.Check.ge(column.low))
    if column.high is not None:
        checks.append(pa.Check.le(column.high))
    if column.name == "model":
        checks.append(pa.Check.str_matches(f"^{MODEL_PATTERN}$"))
    if column.name == "form":
        checks.append(pa.Check.isin(FORMS))
    return pa.Column(_TYPES[column.type], checks=checks, nullable=column.optional)


def _ordered(names: tuple[str, ...]):
    def check(frame: pd.DataFrame) -> pd.Series:
        holds = pd.Series(True, index=frame.index)
        for low, high in pairwise(names):
            ordered = frame[low].astype(float) <= frame[high].astype(float) + _ROUNDING
            # A row that was not measured is empty and says why in its flags.
            holds &= ordered | frame[low].isna()
        return holds

    return check
