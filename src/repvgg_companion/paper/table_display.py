"""A table as it is read, for Markdown and LaTeX: fewer columns than its CSV, marks at the cells that need a note.

Intervals stand beside their value. A recounted column is left out where it repeats the printed one: only a mismatch is
marked. Texts that are the same in every row, and notes on the whole table, stand below it once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TableRow = dict[str, Any]
"""A row of one of the tables: its columns, and under `note` a list of notes."""
_WORDS = {
    "top1": "top-1",
    "pct": "(%)",
    "examples per s": "(examples/s)",
    "params m": "params (M)",
    "flops b": "FLOPs (B)",
    "flops": "FLOPs",
    "wino muls b": "Wino MULs (B)",
    "wino muls": "Wino MULs",
    "tflops": "(TFLOPS)",
    "ms": "(ms)",
    "px": "(px)",
    "conv1x1": "1x1",
    "n samples": "samples",
    "mean iou": "mIoU",
    "pixel acc": "pixel accuracy",
}
_UNITS = ("_pct", "_points", "_examples_per_s", "_ms")
TRACES = ("_run_id", "_weights_sha256", "_form")
"""Endings of columns that only the CSV holds: which run, which weights and which form a value belongs to."""
_CONSTANT = ("_seeds", "_n_samples")
"""Endings of numbers that stand below the table where all rows share them, as texts do."""
NO_VALUE = "–"


@dataclass(frozen=True)
class DisplayedTable:
    """Headers and cells; `marks` holds for each row the notes of its cells by column, counted from 1 in `notes`."""

    headers: list[str]
    cells: list[list[str]]
    marks: list[dict[int, list[int]]]
    notes: list[str]
    general: list[str]
    """What holds for the whole table."""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers only and are right-aligned."""
        form = re.compile(r"–|\(?[-+]?\d[\d.e+-]*\)?( \[[^\]]*\])?")
        return [all(form.fullmatch(line[place]) for line in self.cells) for place in range(len(self.headers))]


def displayed(rows: list[TableRow]) -> DisplayedTable:
    """The headers, cells and notes of a table."""
    recounts = dict(_recounts(rows[0]))
    columns = [
        column
        for column in rows[0]
        if column not in ("note", *recounts)
        and not column.endswith(("match", *TRACES))
        and not re.search("_(low|high)(_|$)", column)
        and any(row[column] is not None for row in rows)
    ]
    constant = [column for column in columns[1:] if _is_constant(rows, column)]
    columns = [column for column in columns if column not in constant]
    general = [f"{header(column)}: {_shared(rows, column)}" for column in constant]
    if recounts:
        names = ", ".join(header(printed).removeprefix("paper ") for printed in dict.fromkeys(recounts.values()))
        general.append(f"recounted here: {names}; a cell without a mark agrees with the printed value; "
                       "a value in brackets is counted and not printed")  # fmt: skip
    own = [_notes(row, recounts, columns) for row in rows]
    everywhere = [
        note for _, note in own[0] if len(rows) > 1 and all(note in [text for _, text in part] for part in own)
    ]
    general += dict.fromkeys(everywhere)
    notes = list(dict.fromkeys(note for part in own for _, note in part if note not in everywhere))
    marks: list[dict[int, list[int]]] = [{} for _ in rows]
    for line, part in zip(marks, own, strict=True):
        for place, note in part:
            if note in notes:
                line.setdefault(place, []).append(notes.index(note) + 1)
    cells = [[_cell(row, column, recounts) for column in columns] for row in rows]
    return DisplayedTable([header(column) for column in columns], cells, marks, notes, general)


def _recounts(row: TableRow) -> Iterator[tuple[str, str]]:
    """The recounted columns that a `match` column compares with the printed one: (recounted, printed)."""
    for match in [column for column in row if column.endswith("match")]:
        stem = match.removesuffix("match").removesuffix("_")
        for column in row:
            printed = column.replace("recount_", "paper_", 1)
            if column.startswith(f"recount_{stem}") and printed in row:
                yield column, printed


def _is_constant(rows: list[TableRow], column: str) -> bool:
    values = {row[column] for row in rows} - {None}
    as_text = all(isinstance(value, str) for value in values) or column.endswith(_CONSTANT)
    return len(rows) > 1 and as_text and len(values) == 1 and not column.startswith("paper_")


def _shared(rows: list[TableRow], column: str) -> str:
    row = next(row for row in rows if row[column] is not None)
    return _cell(row, column, {})


def _notes(row: TableRow, recounts: dict[str, str], columns: list[str]) -> list[tuple[int, str]]:
    """The notes of a row with the place of their column: 0 for the whole row, or for a column that is not shown."""
    found: list[tuple[int, str]] = []
    reasons = dict(note.split(": ", 1) for note in row["note"] if ": " in note)
    for recount, printed in recounts.items():
        if None not in (row[printed], row[recount]) and not _equal(row[printed], row[recount]):
            reason = reasons.get(printed.removeprefix("paper_"))
            words = f"counted here: {number(recount, row[recount])}{f'; {reason}' if reason else ''}"
            found.append((columns.index(printed), words))
    met = {printed.removeprefix("paper_") for printed in recounts.values()}
    for note in row["note"]:
        stem, colon, words = note.partition(": ")
        if stem in met:
            continue
        if not colon or not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", stem):
            found.append((0, note))
            continue
        place = next((place for place, column in enumerate(columns) if column.startswith(stem)), 0)
        found.append((place, f"{header(stem)}: {words}"))
    return found


def _equal(printed: Any, counted: Any) -> bool:
    return printed == counted or (isinstance(counted, float) and abs(printed - counted) < 1e-9)


def header(column: str) -> str:
    """`paper_top1_pct` as `paper top-1 (%)`."""
    words = column.replace("_", " ")
    for key, word in _WORDS.items():
        words = re.sub(rf"\b{key}\b(?!\))", word, words)
    return words


def _cell(row: TableRow, column: str, recounts: dict[str, str]) -> str:
    value = row[column]
    if value is None:
        counted = next((row[recount] for recount, printed in recounts.items() if printed == column), None)
        return NO_VALUE if counted is None else f"({number(column, counted)})"
    text = number(column, value)
    stem = column
    for unit in _UNITS:
        stem = stem.removesuffix(unit)
    low, high = (row.get(f"{stem}_{side}{column[len(stem) :]}") for side in ("low", "high"))
    if low is not None and high is not None:
        text += f" [{number(column, low)}, {number(column, high)}]"
    return text


_FORMATS = {"_error": ".1e", "_points": "+.2f", "_pct": ".2f", "_m": ".2f", "flops_b": ".1f", "muls_b": ".1f"}
"""How numbers are written, by the ending of their column."""


def number(column: str, value: Any) -> str:
    """A value as the tables write it; the decimals follow from the column."""
    if not isinstance(value, float):
        return str(value)
    if column.startswith("paper_") and column.endswith(("_examples_per_s", "_ms")):
        return f"{value:.1f}"  # as it is printed
    if column.endswith("_examples_per_s"):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    if column.endswith("_tflops"):
        return f"{value:.2f}" if value >= 1 else f"{value:.3g}"
    form = next((form for ending, form in _FORMATS.items() if column.endswith(ending)), ".4g")
    return format(value, form)


def as_markdown(rows: list[TableRow], title: str) -> str:
    """A pipe table under its title, the notes as a list: first those on the whole table, then those with a letter."""
    table = displayed(rows)
    cells = [
        [cell.replace("|", "\\|") + _raised(marks.get(place, [])) for place, cell in enumerate(line)]
        for line, marks in zip(table.cells, table.marks, strict=True)
    ]
    lines = [
        title,
        "",
        "| " + " | ".join(table.headers) + " |",
        "| " + " | ".join("---:" if right else "---" for right in table.numeric) + " |",
        *("| " + " | ".join(line) + " |" for line in cells),
        "",
        *(f"- {words}" for words in table.general),
        *(f"- {_raised([place])} {note}" for place, note in enumerate(table.notes, start=1)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _raised(numbers: list[int]) -> str:
    return f"<sup>{','.join(map(letter, sorted(set(numbers))))}</sup>" if numbers else ""


def letter(place: int) -> str:
    """`a` for 1, `z` for 26, `aa` for 27: the mark of a note."""
    before, rest = divmod(place - 1, 26)
    return (letter(before) if before else "") + "abcdefghijklmnopqrstuvwxyz"[rest]
