"""The rows that a column `source` or `evidence` names, each followed to its run, samples, weights and print."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import read_table
from repvgg_companion.evidence.raw_row import Node, raw_node
from repvgg_companion.evidence.table_sources import NOW, printed
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.ours import Results, Row
from repvgg_companion.paper.printed import FILES, Facts

_FORM = "(?P<form>train|deploy)"
_TRAINED = rf"(?P<model>\S+) (?P<recipe>\S+) (?P<training_digest>\S+) {_FORM} seed (?P<seed>\S+)"
_ROWS = {
    "speed": rf"(?P<run_id>\S+) (?P<model>\S+) {_FORM} (?P<precision>\S+) (?P<backend>\S+) batch (?P<batch_size>\d+)",
    "kernel_size": r"(?P<run_id>\S+) (?P<kernel_size>\d+)",
    "memory": rf"(?P<run_id>\S+) (?P<model>\S+) {_FORM}(?: (?P<layer>\S+))?",
    "accuracy": _TRAINED,
    "segmentation": _TRAINED,
    "complexity": rf"(?P<model>\S+) {_FORM}",
}
"""How the rows of each table of the contract are named; the groups are columns."""
_VALUES = {"speed": "examples_per_s", "kernel_size": "tflops"}
_PUBLISHED = re.compile(r"paper/(\S+) lines? (\d+)(?: (and|to) (\d+))?")
_FACT = re.compile(r"paper/(\S+) row (\d+)")
_PRINTED = re.compile(r"printed (\w+)\((.*)\)")
_SEEDS = re.compile(rf"accuracy\.csv (?P<model>\S+) {_FORM}, \d+ seeds(?: of (?P<study>\S+))?")
_HISTORY = re.compile(r"history\.csv of (?P<owner>\S+) (?P<model>[^\s,]+)")
_SEPARATOR = re.compile(r";\s*(?![^()]*\))")
_COLUMNS = {
    "top1": ("top1_pct",),
    "miou": ("mean_iou_pct",),
    "speed": ("speed_examples_per_s", "speed_without_reparam_examples_per_s"),
    "params": ("params_m",),
    "flops": ("flops_b",),
    "wino": ("wino_muls_b",),
}


@dataclass(frozen=True)
class Places:
    """Where the named files are; `study` is the name of the study that rows of seeds belong to unless they name it.

    `setting` (words such as `contiguous`) and `values` are what is shown beside the source: they tell apart rows for
    which the source has the same name.
    """

    facts: Facts
    results: Results
    studies: Path
    study: str = ""
    setting: frozenset[str] = frozenset()
    values: tuple[float, ...] = ()


def followed(text: str, places: Places) -> Iterator[Node]:
    """A node for each part of a column `source` or `evidence`; words that name no row stay as they are."""
    for part in filter(None, (one.strip() for one in _SEPARATOR.split(text))):
        nodes = list(_nodes(part, places))
        yield from nodes or [Node(part)]


def _nodes(part: str, places: Places) -> Iterator[Node]:
    if match := _PUBLISHED.search(part):
        yield from _lines(match, places.facts)
    elif match := _FACT.search(part):
        yield fact_node(match[1], int(match[2]), places.facts)
    elif match := _PRINTED.fullmatch(part):
        subject, *qualifiers = (word.strip() for word in match[2].split(","))
        yield printed_node(Quantity(match[1], subject, tuple(qualifiers)), places.facts)
    elif match := _SEEDS.match(part):
        yield _seeds(part, match, places)
    elif match := _HISTORY.match(part):
        yield from _histories(match["owner"], match["model"], places)
    elif part.startswith(("count of ", "walk of ")):
        yield Node(f"{NOW}: {part}")
    for table, pattern in _ROWS.items():
        if found := re.match(rf"{table}\.csv {pattern}", part):
            yield from _rows(table, part, found.groupdict(), places)


def _rows(table: str, part: str, named: dict[str, str | None], places: Places) -> Iterator[Node]:
    wanted = {name: value for name, value in named.items() if value is not None}
    rows = places.results.rows(table)
    fitting = [row for row in rows if all(str(row[name]) == value for name, value in wanted.items())]
    if not fitting:
        yield Node(f"{part}: {places.results.folder} no longer has such a row")
    yield from (raw_node(places.results, table, row) for row in _told_apart(table, fitting, places))


def _told_apart(table: str, rows: list[Row], places: Places) -> list[Row]:
    """Of several rows of one name those of the shown setting, else those whose value is shown, else all."""

    def is_of_setting(row: Row) -> bool:
        return {str(row.get(name)) for name in ("precision", "memory_format")} <= places.setting

    def is_shown(row: Row) -> bool:
        value = row[_VALUES[table]] if table in _VALUES else None
        return value is not None and any(math.isclose(value, shown, rel_tol=1e-6) for shown in places.values)

    for fits in (is_of_setting, is_shown):
        if len(rows) > 1:
            rows = list(filter(fits, rows)) or rows
    return rows


def _seeds(part: str, match: re.Match, places: Places) -> Node:
    results = Results(places.studies / (match["study"] or places.study))
    rows = [row for row in results.rows("accuracy") if (row["model"], row["form"]) == (match["model"], match["form"])]
    return Node(part, tuple(raw_node(results, "accuracy", row) for row in rows))


def _histories(owner: str, model: str, places: Places) -> Iterator[Node]:
    """The trainings of a network: those of a study, or those behind the accuracies on a dataset."""
    study = places.studies / owner
    results = Results(study) if study.is_dir() else places.results
    for row in results.rows("accuracy"):
        if row["model"] == model and (study.is_dir() or row["dataset"] == owner):
            yield raw_node(results, "accuracy", row)


def _lines(match: re.Match, facts: Facts) -> Iterator[Node]:
    path, first, last = facts.folder / match[1], int(match[2]), int(match[4] or match[2])
    for line in range(first, last + 1) if match[3] == "to" else dict.fromkeys((first, last)):
        yield published_node(path, line)


def published_node(path: Path, line: int) -> Node:
    """A line of a table that others published."""
    table = read_table(path)
    if line not in table.lines:
        raise CompanionError(f"{path} has no line {line}; write the ledger again")
    row = table.rows[table.lines.index(line)]
    return Node(f"{path}: line {line}: " + "; ".join(f"{name}: {value}" for name, value in row.items() if value))


def fact_node(file: str, number: int, facts: Facts) -> Node:
    """A row of a printed table; raises CompanionError if the table has no such row."""
    name = next((name for name, path in FILES.items() if path == file), None)
    if name is None or not 1 <= number <= len(facts.table(name)):
        raise CompanionError(f"{facts.folder / file} has no row {number}; draw the figure again")
    words = printed(facts, name, number, "")
    cells = "; ".join(f"{key}: {value}" for key, value in facts.table(name)[number - 1].items() if value is not None)
    return Node(f"{words}: {cells}")


def printed_node(quantity: Quantity, facts: Facts) -> Node:
    """The table, row and column in which the paper prints a quantity."""
    value = facts.printed(quantity)
    if quantity.name == "density":
        sizes = [str(row["kernel_size"]) for row in facts.table("table1")]
        return Node(printed(facts, "table1", sizes.index(quantity.subject) + 1, "density_tflops"))
    for name in ("table4", "table5", "table6", "table7", "table8"):
        for number, row in enumerate(facts.table(name), start=1):
            mine = row["model"] == quantity.subject
            column = next((key for key in _COLUMNS[quantity.name] if mine and row.get(key) == value), None)
            if column is not None:
                return Node(printed(facts, name, number, column))
    for number, row in enumerate(facts.table("released"), start=1):
        if row["model"] == quantity.subject and row["top1_official_pct"] == value:
            where = f"{facts.folder / FILES['released']}: row {number}, column top1_official_pct = {value}"
            return Node(f"{where}; printed in {row['official_number_source']}")
    return Node(f"printed {quantity} = {value}")
