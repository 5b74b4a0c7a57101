"""Columns that several tables share: recounted cells with their match, measured speeds, kernel sizes."""

from dataclasses import dataclass
from typing import Any

from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import disturbed_by, has_paper_shape
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.ours import Results, Row, traced
from repvgg_companion.paper.printed import Facts


@dataclass
class Recount:
    """The printed and the counted cells of one row of a table, and the notes that they need."""

    facts: Facts
    table: str
    row: Any
    notes: list[str]

    def match(self, column: str, printed: float | None, counted: float | None) -> str:
        """Whether the count gives the printed cell; a known exception adds its reason to the notes."""
        if printed is None:
            return "not printed"
        if counted is not None and abs(printed - counted) < 1e-9:
            return "yes"
        reason = self.facts.exceptions.get((self.table, str(self.row), column))
        if reason is None:
            return "no"
        self.notes.append(f"{column}: {reason}")
        return "no, known exception"


def note_disturbance(column: str, row: Row | None, notes: list[str]) -> None:
    """Add a note to `column` where the speed of `row` was disturbed."""
    if row and (kinds := disturbed_by(row)):
        notes.append(f"{column}: disturbed ({', '.join(kinds)}), so it decides no claim")


def kernel_row_order(row: Row) -> tuple:
    """Which row of `kernel_size.csv` is shown beside the paper's: its shape, fp32, eager and contiguous come first."""
    paper_last = (row["precision"] != "fp32", row["backend"] != "eager", row["memory_format"] != "contiguous")
    names = ("device", "run_id", "precision", "backend", "memory_format", "batch_size", "channels", "resolution_px")
    return (not has_paper_shape(row), row["tflops"] is None, *paper_last, *(row[name] for name in names))


def kernel_row(results: Results, size: int, *, papers_shape: bool) -> Row | None:
    """The row of a kernel size that is shown, at the paper's shape or at a smaller one."""
    rows = [row for row in results.rows("kernel_size") if row["kernel_size"] == size]
    return min((row for row in rows if has_paper_shape(row) == papers_shape), key=kernel_row_order, default=None)


def small_speed_row(results: Results, model: str) -> Row | None:
    """A speed of the deploy form at another input size than the paper's."""
    rows = [row for row in results.rows("speed") if row["model"] == model and row["form"] == "deploy"]
    return next((row for row in rows if row["input_px"] != MODELS[model].input_px), None)


def kernel_columns(prefix: str, row: Row | None) -> Row:
    """The columns of a measured kernel size; empty without a row."""
    columns = {
        "time_ms": "time_ms",
        "time_low_ms": "low_ms",
        "time_high_ms": "high_ms",
        "density_tflops": "tflops",
        "device": "device",
        "precision": "precision",
    }
    shown = {f"{prefix}_{ours}": row[key] if row else None for ours, key in columns.items()}
    return shown | traced(f"{prefix}_time", [row] if row else [], ("run_id",))


def speed_columns(evidence: Evidence, quantity: Quantity, notes: list[str]) -> Row:
    """Our speed with its interval, from the one setting of the table; the setting has columns of its own."""
    row, run = None, evidence.speeds
    if run is None:
        notes.append(f"ours_speed: {evidence.why_no_speeds or 'speed.csv holds no rows'}")
    else:
        row = run.rows.get((quantity.subject, quantity.form))
        if row is None:
            notes.append(f"ours_speed: its {quantity.form} form was not measured in {run.label}")
    note_disturbance("ours_speed", row, notes)
    names = ("examples_per_s", "low_examples_per_s", "high_examples_per_s", "n_samples")
    setting = f"{run.label}, {row['input_px']} px" if run and row else None
    columns = {f"ours_speed_{name}": row[name] if row else None for name in names} | {"ours_speed_setting": setting}
    return columns | traced("ours_speed", [row] if row else [])
