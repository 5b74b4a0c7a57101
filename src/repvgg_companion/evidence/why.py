"""The `why` verb: which rows, samples, weights, images, commit, device or printed source a number rests on."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.contract import TABLES as CONTRACT
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import SYNTAX, Chosen, TextTable, choose, read_table
from repvgg_companion.evidence.claim_sources import claim_basis, evidence_of
from repvgg_companion.evidence.figure_sources import figure_nodes
from repvgg_companion.evidence.ledger_sources import ledger_nodes
from repvgg_companion.evidence.picture_sources import picture_nodes, study_of
from repvgg_companion.evidence.pictures import TITLES as PICTURES
from repvgg_companion.evidence.raw_row import basis_node, raw_node
from repvgg_companion.evidence.table_sources import cell_basis
from repvgg_companion.evidence.tree import Node
from repvgg_companion.files import read_json
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import widest
from repvgg_companion.paper.ours import Results, Row
from repvgg_companion.paper.printed import FILES, Facts
from repvgg_companion.paper.table_rows import TABLES as PAPER_TABLES

FIGURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class WhyRequest:
    """A file and, if given, a cell of it; `results` is the folder that a figure was drawn from."""

    file: Path
    cell: str
    paper: Path
    results: Path | None

    def __post_init__(self) -> None:
        """Raise CompanionError where the file is missing or of a kind that cannot be traced."""
        if not self.file.is_file():
            raise CompanionError(f"{self.file} does not exist or is not a file; name a CSV file of results or a figure")
        if self.file.suffix not in (".csv", *FIGURES):
            raise CompanionError(f"{self.file} is neither a CSV file nor a figure ({', '.join(FIGURES)})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `why` verb."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="results/EXPERIMENT/*.csv, results/EXPERIMENT/tables/table4.csv, results/devices/DEVICE/*.csv, "
        "results/reference/ledger.csv, paper/*.csv, or a figure below paper_figures",
    )
    parser.add_argument("cell", metavar="CELL", nargs="*", help=SYNTAX)
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--results", help="for a figure: the folder of results that it was drawn from")


def run(arguments: argparse.Namespace) -> None:
    """Print the tree of what the cell rests on."""
    request = WhyRequest(
        Path(arguments.file),
        " ".join(arguments.cell),
        Path(arguments.paper),
        Path(arguments.results) if arguments.results else None,
    )
    for node in nodes(request):
        print("\n".join(node.lines()))


def nodes(request: WhyRequest) -> list[Node]:
    """One tree for each row that the cell means; one for a whole file."""
    facts = Facts(request.paper)
    if request.file.suffix in FIGURES and (request.file.stem in PICTURES or study_of(request.file).is_dir()):
        return picture_nodes(request.file, request.cell, facts)
    if request.file.suffix in FIGURES:
        return figure_nodes(request.file, request.cell, facts, request.results)
    table = read_table(request.file)
    if not request.cell:
        return [_whole(request.file, table)]
    chosen = choose(table, request.cell)
    name = request.file.stem
    if name == "ledger":
        return [ledger_nodes(request.file, table.rows[number - 1], facts) for number in chosen.numbers]
    if request.file.resolve().parent == request.paper.resolve():
        return [_printed_row(request.file, table, number) for number in chosen.numbers]
    if name == "claims":
        return _claim_nodes(request.file, table, chosen, facts)
    if name in PAPER_TABLES:
        return _table_nodes(request.file, table, chosen, facts)
    if name in CONTRACT and "run_id" in table.columns:
        results = Results(request.file.parent)
        rows = results.rows(name)
        return [_raw_cell(results, name, rows[number - 1], chosen.column) for number in chosen.numbers]
    raise CompanionError(
        f"{request.file} is no table that can be traced; name a table of the contract, of the paper, or ledger.csv"
    )


def _raw_cell(results: Results, table: str, row: Row, column: str | None) -> Node:
    node = raw_node(results, table, row)
    return node if column is None else Node(f"{node.text}, column {column} = {row[column]}", node.children)


def _table_nodes(path: Path, table: TextTable, chosen: Chosen, facts: Facts) -> list[Node]:
    results = Results(path.parent.parent)
    speeds = widest(results)
    evidence = Evidence(facts, results, speeds, "" if speeds else "speed.csv holds no usable rows")
    found = []
    for number in chosen.numbers:
        row = table.rows[number - 1]
        for column in [chosen.column] if chosen.column else [name for name in table.columns if row[name]]:
            basis = cell_basis(evidence, path.stem, number, column)
            found.append(_cell_node(path, number, column, row, [basis_node(results, part) for part in basis]))
    return _joined(found) if chosen.column is None else found


def _cell_node(path: Path, number: int, column: str, row: dict[str, str], children: Sequence[Node]) -> Node:
    who = next((row[name] for name in ("model", "kernel_size", "stage") if row.get(name)), "")
    value = f"is {row[column]}" if row[column] else f"is empty: {row.get('note') or 'no reason is given'}"
    return Node(f"{path}: row {number} ({who}), column {column} {value}", tuple(children))


def _joined(nodes: list[Node]) -> list[Node]:
    """Cells of one row that rest on the same things, as one node."""
    groups: dict[tuple[Node, ...], list[Node]] = {}
    for node in nodes:
        groups.setdefault(node.children, []).append(node)
    return [Node(f"{cells[0].text}{_and_more(cells)}", children) for children, cells in groups.items()]


def _and_more(cells: list[Node]) -> str:
    others = [cell.text.rpartition(", column ")[2].replace(" is ", " = ", 1) for cell in cells[1:]]
    return f"; and on the same rest {', '.join(others)}" if others else ""


def _claim_nodes(path: Path, table: TextTable, chosen: Chosen, facts: Facts) -> list[Node]:
    results = Results(path.parent)
    claims = {claim["id"]: claim for claim in facts.table("claims")}
    found = []
    for number in chosen.numbers:
        row = table.rows[number - 1]
        claim = claims.get(row["id"])
        if claim is None:
            raise CompanionError(f"{path}: row {number} is the claim {row['id']}, which {facts.folder} does not list")
        evidence = evidence_of(claim, facts, results, row)
        terms = [
            Node(f"term {term}", tuple(basis_node(results, part) for part in basis))
            for term, basis in claim_basis(claim, evidence)
        ]
        setting = ", ".join(row[name] for name in ("device", "precision", "backend") if row[name])
        where = Node(f"{facts.folder / FILES['claims']}: {row['id']}, {claim['where_in_paper']} of arXiv 2101.03697v3")
        verdicts = f"number {row['verdict_number']}, inference {row['verdict_inference']}"
        text = f"{path}: row {number}, {row['id']}{f' on {setting}' if setting else ''}: {verdicts}"
        found.append(Node(f"{text}; ours: {row['our_value'] or 'none'}", (where, *terms)))
    return found


def _printed_row(path: Path, table: TextTable, number: int) -> Node:
    row = table.rows[number - 1]
    cells = "; ".join(f"{name}: {value}" for name, value in row.items() if value)
    source = next((row[name] for name in ("source", "official_number_source", "where_in_paper") if row.get(name)), "")
    words = source or "arXiv 2101.03697v3, the table that the file is named after"
    return Node(f"{path}: row {number}: {cells}", (Node(f"source: {words}"),))


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
