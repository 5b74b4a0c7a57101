"""The facts printed in the paper, read from the folder `paper/`. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_csv
from repvgg_companion.paper.grammar import NotAvailable, Quantity

FILES = {
    "table1": "table1_kernel_size.csv",
    "table2": "table2_architecture.csv",
    "table3": "table3_variants.csv",
    "table4": "table4_120epochs.csv",
    "table5": "table5_200epochs.csv",
    "table6": "table6_branch_ablation.csv",
    "table7": "table7_variants_ablation.csv",
    "table8": "table8_cityscapes.csv",
    "figure1": "figure1_points.csv",
    "claims": "claims.csv",
    "exceptions": "known_exceptions.csv",
    "released": "released_checkpoints.csv",
}
_PERFORMANCE = ("model", "top1_pct", "speed_examples_per_s", "params_m", "flops_b", "wino_muls_b", "epochs")
COLUMNS = {
    "table1": ("kernel_size", "density_tflops"),
    "table4": _PERFORMANCE,
    "table5": _PERFORMANCE,
    "table6": ("model", "top1_pct", "epochs", "speed_without_reparam_examples_per_s"),
    "table7": ("model", "top1_pct", "epochs"),
    "table8": ("model", "mean_iou_pct", "speed_examples_per_s"),
    "figure1": ("model", "epochs", "top1_pct"),
    "claims": (
        "id", "where_in_paper", "claim", "kind", "condition", "condition_on_printed_numbers", "tolerance_released",
        "tolerance_retrained", "printed_value", "tables", "note",
    ),
    "exceptions": ("table", "row", "column", "reason"),
    "released": ("model", "recipe", "test_px", "top1_official_pct"),
}  # fmt: skip
"""The columns that quantities and verdicts are read from; a table may have more."""
# The columns of Tables 4 and 5 under the names of the claims' quantities.
_PRINTED = {"speed": "speed_examples_per_s", "params": "params_m", "flops": "flops_b", "wino": "wino_muls_b"}


@dataclass(frozen=True)
class Facts:
    """The printed facts of one folder."""

    folder: Path
    _tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict, compare=False, repr=False)

    def table(self, name: str) -> list[dict[str, Any]]:
        """Rows of `table1` to `table8`, `figure1`, `claims`, `exceptions` or `released`, in the printed order.

        Numbers are numbers, empty cells None. Raises CompanionError if the file is missing.
        """
        if name not in self._tables:
            path = Path(self.folder) / FILES[name]
            self._tables[name] = _read(path, COLUMNS.get(name, ()), texts=name == "claims")
        return self._tables[name]

    def row(self, name: str, model: str) -> dict[str, Any] | None:
        """The row of `model` in a table, None where it is not in it."""
        return next((row for row in self.table(name) if row["model"] == model), None)

    @cached_property
    def exceptions(self) -> dict[tuple[str, str, str], str]:
        """Reason of each cell that follows from no rule, by table, row and column."""
        return {
            (f"table{row['table']}", str(row["row"]), row["column"]): row["reason"] for row in self.table("exceptions")
        }

    def recipe_of_released(self, model: str) -> str | None:
        """The recipe of the authors' released weights of `model`; None where it is unknown."""
        return next((row["recipe"] for row in self.table("released") if row["model"] == model), None)

    def printed(self, quantity: Quantity) -> float:
        """The printed value of a quantity; raises NotAvailable if the paper prints none."""
        value = self._printed(quantity)
        if value is None:
            raise NotAvailable(f"the paper prints no {quantity}")
        return float(value)

    def _printed(self, quantity: Quantity) -> float | None:
        model = quantity.subject
        if quantity.name == "density":
            return next(row["density_tflops"] for row in self.table("table1") if row["kernel_size"] == int(model))
        if quantity.name == "miou":
            return (self.row("table8", model) or {}).get("mean_iou_pct")
        if quantity.name == "speed":
            if quantity.form == "train":
                return (self.row("table6", model) or {}).get("speed_without_reparam_examples_per_s")
            if model.startswith("PSPNet-"):
                return (self.row("table8", model) or {}).get("speed_examples_per_s")
        if quantity.name == "top1":
            return self._printed_top1(quantity)
        if quantity.name in _PRINTED and quantity.form != "train":
            row = self.row("table4", model) or self.row("table5", model) or {}
            return row.get(_PRINTED[quantity.name])
        return None

    def _printed_top1(self, quantity: Quantity) -> float | None:
        if quantity.input_px is not None:
            rows = [row for row in self.table("released") if row["model"] == quantity.subject]
            return next((row["top1_official_pct"] for row in rows if row["test_px"] == quantity.input_px), None)
        found = self.trained(quantity.subject, 200 if quantity.recipe == "200-epochs" else 120)
        return found and found[1]["top1_pct"]

    def trained(self, model: str, epochs: int = 120) -> tuple[str, dict[str, Any]] | None:
        """The first table with the top-1 of `model` after so many epochs, and its row there; None if it is in none."""
        for name in ("table4", "table5", "table6", "table7"):
            row = self.row(name, model)
            if row is not None and row["epochs"] == epochs:
                return name, row
        return None


def printed_row(facts: Facts, table: str, row: dict[str, Any]) -> str:
    """`paper/table4_120epochs.csv row 3`: where a row of a printed table stands, counted below the header."""
    place = next(number for number, one in enumerate(facts.table(table), start=1) if one is row)
    return f"paper/{FILES[table]} row {place}"


def read_facts(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """A CSV file of the folder `paper`, as `read_csv`; raises CompanionError if it is missing."""
    try:
        return read_csv(path)
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; give the folder of the paper's facts with --paper") from None


def _read(path: Path, needed: Sequence[str], *, texts: bool) -> list[dict[str, Any]]:
    header, rows = read_facts(path)
    if missing := [name for name in needed if name not in header]:
        raise CompanionError(
            f"{path} line 1: the column {missing[0]!r} is missing; the columns are {', '.join(header)}"
        )
    return [{key: (value or None) if texts else _typed(value) for key, value in row.items()} for _, row in rows]


def _typed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
