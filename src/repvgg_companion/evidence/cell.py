"""CELL of the `why` verb: which rows and which column of a CSV file are meant."""

import re
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.errors import CompanionError, nearest
from repvgg_companion.files import read_csv

SYNTAX = (
    "which cell: parts separated by commas, colons or spaces. 'row 3' is the third row below the header; the name of a "
    "column, with or without the word 'column', is that column; anything else must be a value of the row or a part of "
    "one between hyphens, underscores, spaces and other marks, in quotes of its own if it has spaces. Examples: "
    "'row 3, column top1_pct', 'C20', C02 'not met', 'RepVGG-A0:ours_top1_pct', 'residual', 'h100', "
    "'RepVGG-A0 deploy fp32 eager batch_size=8'. Without CELL: what the whole file rests on."
)
MOST_ROWS = 12
"""A cell that fits more rows than this is not followed; the answer would not be short."""
_LONGEST_HINT = 90
"""Letters of a column with its values that the error still names."""
_WORD = re.compile(r"[^\s,:]*\w[^\s,:]*")
_PLACE = re.compile(r"\b(row|line)\s*=?\s*(\d+)\b", re.IGNORECASE)


class NoSuchCell(CompanionError):
    """No row of the file has what CELL names."""


@dataclass(frozen=True)
class TextTable:
    """A CSV file as text: its columns and its rows."""

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]
    lines: tuple[int, ...] = ()
    """The line of the file on which each row ends."""


@dataclass(frozen=True)
class Chosen:
    """The rows of a table that CELL means, counted from 1 below the header, and the column if it names one."""

    table: TextTable
    numbers: list[int]
    column: str | None

    @property
    def rows(self) -> list[tuple[int, dict[str, str]]]:
        """The rows with their numbers."""
        return [(number, self.table.rows[number - 1]) for number in self.numbers]


def read_table(path: Path) -> TextTable:
    """Read a CSV file as text; raises CompanionError if it is missing or damaged."""
    try:
        header, rows = read_csv(path)
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist") from None
    return TextTable(path, header, [row for _, row in rows], tuple(line for line, _ in rows))


def choose(table: TextTable, cell: str, most: int = MOST_ROWS) -> Chosen:
    """The rows and the column that `cell` means; raises CompanionError if no row, or more than `most`, fit."""
    place = _PLACE.search(cell)
    words = [word for word in _split(_PLACE.sub(" ", cell), table.rows) if word.lower() != "column"]
    known = {name.lower(): name for name in table.columns}
    columns = [known[word.lower()] for word in words if word.lower() in known]
    values = [word for word in words if word.lower() not in known]
    if len(columns) > 1:
        raise CompanionError(f"CELL names the columns {' and '.join(columns)}; name one")
    fitting = [_fitting(table.rows, word) for word in values]
    numbers = [number for number in range(1, len(table.rows) + 1) if all(number in found for found in fitting)]
    if place is not None:
        wanted = int(place[2]) - (1 if place[1].lower() == "line" else 0)
        if not 1 <= wanted <= len(table.rows):
            raise NoSuchCell(f"{table.path} has {len(table.rows)} rows; {place[0]} is not one of them")
        numbers = [number for number in numbers if number == wanted]
    if not numbers:
        unknown = [word for word, found in zip(values, fitting, strict=True) if not found]
        what = f"no row has all of {cell!r}"
        if unknown:
            near = nearest(unknown[0], [*table.columns, *sorted(_parts(table.rows))], count=3)
            what = f"{unknown[0]!r} is neither a column nor a value in it"
            what += f"; the nearest are {', '.join(near)}" if near else ""
        raise NoSuchCell(f"{table.path}: {what}; its columns are {', '.join(table.columns)}")
    if len(numbers) > most:
        rows = [table.rows[number - 1] for number in numbers]
        raise CompanionError(f"{len(numbers)} rows of {table.path} fit {cell!r}; add {_telling(table.columns, rows)}")
    return Chosen(table, numbers, columns[0] if columns else None)


def _split(cell: str, rows: list[dict[str, str]]) -> list[str]:
    """The words of a cell. Words in quotes stay together if they are a value, such as "not met"."""
    words: list[str] = []
    for quoted, bare in re.findall(r'"([^"]*)"|([^"]+)', cell):
        words += [quoted] if quoted.strip() and _fitting(rows, quoted) else _WORD.findall(quoted or bare)
    return words


def _fitting(rows: list[dict[str, str]], word: str) -> set[int]:
    """The rows with a cell that `word` means, upper and lower case alike; `column=word` looks in that column only.

    The closest fit counts: a cell that is `word`, else a cell with that word, else a cell with that part of a word.
    """
    name, equals, wanted = word.partition("=")
    in_column = bool(equals and rows and name in rows[0])
    wanted = wanted if in_column else word
    cells = [[row[name]] if in_column else list(row.values()) for row in rows]
    part = _as_part(wanted)
    fits = (
        lambda cell: _same(cell, wanted),
        lambda cell: wanted.lower() in _words(cell),
        lambda cell: part.search(cell) is not None,
    )
    for fit in fits:
        if found := {number for number, row in enumerate(cells, start=1) if any(map(fit, row))}:
            return found
    return set()


def _words(cell: str) -> set[str]:
    """The words of a cell; `A0` is a word of RepVGG-A0, as figures label it."""
    words = {part.lower() for part in re.split(r"[^\w.+-]+", cell)}
    return words | {word.removeprefix("repvgg-") for word in words}


def _as_part(word: str) -> re.Pattern[str]:
    """Matches `word` between marks such as - and _: h100 in gpu-h100-80gb, but not 3 in A3, 0.3 or 3.5."""
    return re.compile(rf"(?<![^\W_])(?<!\d\.){re.escape(word.strip())}(?![^\W_])(?!\.\d)", re.IGNORECASE)


def _parts(rows: list[dict[str, str]]) -> set[str]:
    """What the error may propose: cells without spaces, and the parts of their names."""
    cells = {cell for row in rows for cell in row.values() if cell and " " not in cell}
    return cells | {part for cell in cells for part in re.split(r"[\W_]+", cell) if len(part) > 2}


def _same(value: str, word: str) -> bool:
    if value.lower() == word.lower():
        return True
    try:
        return float(value) == float(word)
    except ValueError:
        return False


def _telling(columns: list[str], rows: list[dict[str, str]]) -> str:
    """The columns of few values that tell the rows apart, for an error."""
    plain = [name for name in columns if name not in ("experiment", "run_id", "base_model")]
    found = {name: sorted({row[name] for row in rows}) for name in plain}
    few = [f"{name} ({', '.join(values)})" for name, values in found.items() if 1 < len(values) <= 4 and all(values)]
    short = [words for words in few if len(words) <= _LONGEST_HINT]
    return " or ".join(sorted(short, key=len)[:2]) if short else "'row N'"
