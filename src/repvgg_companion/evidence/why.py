"""The `why` verb: which rows, samples, weights, images, commit, device or printed source a number rests on."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.contract import TABLES as CONTRACT
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import SYNTAX, Chosen, TextTable, choose, read_table
from repvgg_companion.evidence.dictionary import HEADER as DICTIONARY
from repvgg_companion.evidence.figure_sources import POINT_COLUMNS, figure_nodes, is_points, places_of, point_nodes
from repvgg_companion.evidence.ledger_columns import COLUMNS as LEDGER
from repvgg_companion.evidence.ledger_columns import HEADER as LEDGER_DICTIONARY
from repvgg_companion.evidence.raw_row import Node
from repvgg_companion.evidence.result_sources import (
    claim_nodes,
    history_nodes,
    ledger_nodes,
    raw_nodes,
    study_nodes,
    table_nodes,
)
from repvgg_companion.evidence.third_party import SPEED_FILE, TIMM_FILE
from repvgg_companion.files import read_json
from repvgg_companion.paper.printed import FILES as PRINTED
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.table_rows import TABLES as PAPER_TABLES

EXCEPTIONS = PRINTED["exceptions"]
FIGURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class WhyRequest:
    """A file and, if given, a cell of it; `results` is the folder that a figure was drawn from."""

    file: Path
    cell: str
    paper: Path
    results: Path | None

    def __post_init__(self) -> None:
        """Raise CompanionError if the file is missing or of a kind that cannot be traced."""
        if not self.file.is_file():
            raise CompanionError(f"{self.file} does not exist or is not a file; name a CSV file of results or a figure")
        if self.file.suffix not in (".csv", *FIGURES):
            beside = self.file.with_suffix(".csv")
            advice = f"name {beside}, which has its rows" if beside.is_file() else "name one of these"
            raise CompanionError(f"{self.file} is neither a CSV file nor a figure ({', '.join(FIGURES)}); {advice}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `why` verb."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="results/EXPERIMENT/*.csv, results/EXPERIMENT/tables/table4.csv, results/devices/DEVICE/*.csv, "
        "results/reference/*.csv, results/studies/STUDY/*.csv, the history.csv of a training, paper/*.csv, or a figure "
        "below paper_figures or the CSV file of its points",
    )
    parser.add_argument("cell", metavar="CELL", nargs="*", help=SYNTAX)
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--results", help="for a figure or its points: the folder of results that it was drawn from")


def run(arguments: argparse.Namespace) -> None:
    """Print the tree of what the cell rests on."""
    request = WhyRequest(
        Path(arguments.file),
        " ".join(f'"{word}"' if " " in word and '"' not in word else word for word in arguments.cell),
        Path(arguments.paper),
        Path(arguments.results) if arguments.results else None,
    )
    for node in nodes(request):
        print("\n".join(node.lines()))


def nodes(request: WhyRequest) -> list[Node]:
    """One tree for each row that the cell means; one for a whole file."""
    facts = Facts(request.paper)
    if request.file.suffix in FIGURES:
        return figure_nodes(request.file, request.cell, facts, request.results)
    table = read_table(request.file)
    if not request.cell:
        return [_whole(request.file, table)]
    if is_points(table):
        chosen = choose(table, request.cell, most=len(table.rows))
        return point_nodes(chosen, places_of(request.file, facts, request.results))
    return _way(request, table)(choose(table, request.cell), facts)


def _way(request: WhyRequest, table: TextTable) -> Callable[[Chosen, Facts], list[Node]]:
    """How the rows of a file are traced, chosen by its columns and its place."""
    path, columns = request.file, table.columns
    if columns == [column.name for column in LEDGER]:
        return ledger_nodes
    if columns in (list(DICTIONARY), list(LEDGER_DICTIONARY)):
        return _definitions
    if path.resolve().parent == request.paper.resolve():
        return _printed_rows
    if (path.parent.parent / "studies" / path.stem).is_dir() and "pair" in columns:
        return study_nodes
    if columns == CONTRACT["history"].names:
        return history_nodes
    if columns == CONTRACT["comparison"].names:
        raise CompanionError(f"{path} compares two folders; ask for a cell of one of them, such as speed.csv")
    if path.stem == "claims" and columns == CONTRACT["claims"].names:
        return claim_nodes
    if path.stem in PAPER_TABLES and path.parent.name == "tables":
        return table_nodes
    if path.stem in CONTRACT and "run_id" in columns:
        return raw_nodes
    joined = [name for name, contract in CONTRACT.items() if columns == contract.names]
    if joined:
        raise CompanionError(f"{path} is a part of a table; ask for a cell of {joined[0]}.csv, which 'collect' joined")
    if missing := _columns_missing(columns):
        raise CompanionError(
            f"{path} has no column {missing}, so another version of the companion wrote it; make it again with this one"
        )
    raise CompanionError(
        f"{path} is not a table that can be traced; name a table of the contract, of the paper, of a small study, "
        "ledger.csv, or the points of a figure"
    )


def _columns_missing(columns: list[str]) -> str:
    """The first column that a table of another version lacks; empty if most columns are of no table that is known."""
    known = [POINT_COLUMNS, [column.name for column in LEDGER], *(contract.names for contract in CONTRACT.values())]
    nearest = max(known, key=lambda names: len({*names} & {*columns}) / len({*names} | {*columns}))
    missing = [name for name in nearest if name not in columns]
    is_near = len({*nearest} & {*columns}) > 2 / 3 * len({*nearest} | {*columns})
    return missing[0] if missing and is_near else ""


def _printed_rows(chosen: Chosen, _: Facts) -> list[Node]:
    file = chosen.table.path.name
    return [_row_node(chosen, number, row, f"source: {_source(file, row)}") for number, row in chosen.rows]


def _row_node(chosen: Chosen, number: int, row: dict[str, str], basis: str) -> Node:
    cells = "; ".join(f"{name}: {value}" for name, value in row.items() if value)
    return Node(f"{chosen.table.path}: row {number}: {cells}", (Node(basis),))


def _source(file: str, row: dict[str, str]) -> str:
    """Who printed or published a row of the folder `paper`."""
    if file in (SPEED_FILE, TIMM_FILE):
        return f"timm, {row.get('source_file') or 'results/'}"
    if file == EXCEPTIONS:
        return "this companion's recount of the printed numbers"
    named = (row[name] for name in ("source", "official_number_source", "where_in_paper") if row.get(name))
    return next(named, "arXiv 2101.03697v3, the table that the file is named after")


def _definitions(chosen: Chosen, _: Facts) -> list[Node]:
    made = "no measurement: it explains a column, written from contract.py and the room evidence"
    return [_row_node(chosen, number, row, made) for number, row in chosen.rows]


def _whole(path: Path, table: TextTable) -> Node:
    """What a whole file rests on: its runs, devices, weights and sources."""
    children = [Node(f"{len(table.rows)} rows; name a cell to see what it rests on, for example 'row 1'")]
    for name in ("run_id", "device", "dataset", "recipe", "weights_sha256", "source", "evidence_class"):
        values = sorted({row[name] for row in table.rows if row.get(name)})
        if values:
            shown = ", ".join(values[:6]) + (f" and {len(values) - 6} more" if len(values) > 6 else "")
            children.append(Node(f"{name}: {shown}"))
    provenance = path.parent / "provenance.json"
    provenance = provenance if provenance.exists() else path.parent.parent / "provenance.json"
    if provenance.exists():
        facts = read_json(provenance)
        made = f"commit {facts.get('commit')}, configuration {facts.get('configuration_digest')}"
        children.append(Node(f"{provenance}: {made}"))
    return Node(str(path), tuple(children))
