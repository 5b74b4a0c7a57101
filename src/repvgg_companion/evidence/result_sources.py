"""What the cells of an experiment rest on: measured rows, the paper's tables, claims, trainings, study pairs."""

from collections.abc import Sequence
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import Chosen, TextTable
from repvgg_companion.evidence.claim_sources import claim_basis, evidence_of
from repvgg_companion.evidence.from_studies import read_study
from repvgg_companion.evidence.named_sources import Places, followed
from repvgg_companion.evidence.picture_points import pair_source, printed_pair_source
from repvgg_companion.evidence.raw_row import basis_node, images_nodes, raw_node
from repvgg_companion.evidence.study_picture import pair_name
from repvgg_companion.evidence.table_sources import cell_basis
from repvgg_companion.evidence.tree import Node
from repvgg_companion.files import sha256_of_file
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import widest
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import FILES, Facts


def raw_nodes(path: Path, chosen: Chosen) -> list[Node]:
    """Rows of a table of the contract that runs measured."""
    results = Results(path.parent)
    rows = results.rows(path.stem)
    found = []
    for number in chosen.numbers:
        row = rows[number - 1]
        node = raw_node(results, path.stem, row)
        column = chosen.column
        found.append(node if column is None else Node(f"{node.text}, column {column} = {row[column]}", node.children))
    return found


def table_nodes(path: Path, table: TextTable, chosen: Chosen, facts: Facts) -> list[Node]:
    """Cells of the paper's tables beside ours."""
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


def claim_nodes(path: Path, table: TextTable, chosen: Chosen, facts: Facts) -> list[Node]:
    """Verdicts on claims: what each term rests on."""
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


def study_nodes(path: Path, table: TextTable, chosen: Chosen, facts: Facts) -> list[Node]:
    """Pairs of networks in the table of a small study, each with its seeds and the printed accuracies."""
    studies = path.parent.parent / "studies"
    study = read_study(studies / path.stem, facts)
    pairs = {pair_name(pair): pair for pair in study.pairs}
    places = Places(facts, study.results, studies, study.name)
    found = []
    for number in chosen.numbers:
        row = table.rows[number - 1]
        pair = pairs.get(row["pair"])
        if pair is None:
            raise CompanionError(f"{path}: row {number} is {row['pair']}, a pair that {study.name} does not have; "
                                 "write the ledger again")  # fmt: skip
        cell = f", column {chosen.column} = {row[chosen.column]}" if chosen.column else ""
        text = f"{path}: row {number} ({row['pair']}){cell}: {row['ours_points']} points over seeds, {row['verdict']}"
        sources = f"{printed_pair_source(facts, pair)}; {pair_source(study, pair)}"
        found.append(Node(text, tuple(followed(sources, places))))
    return found


def history_nodes(path: Path, table: TextTable, chosen: Chosen, _: Facts) -> list[Node]:
    """Epochs of a training: of a study, or beside the weights `weights/DATASET/MODEL/DIGEST/seedK`."""
    if path.parent.parent.name == "history":
        results, seed = Results(path.parent.parent.parent), path.stem.removeprefix("seed")
        rows = [row for row in results.rows("accuracy") if (row["model"], row["seed"]) == (path.parent.name, seed)]
        children = [raw_node(results, "accuracy", row) for row in rows]
    else:
        dataset, model, digest, seed = path.resolve().parts[-5:-1]
        about = f"training of {model} on {dataset}, {seed}, training digest {digest}"
        children = [
            Node(f"{path.parent}: {about}; experiment.json and provenance.json of its experiment have the recipe")
        ]
        children += [Node(f"{file}: weights, SHA-256 {sha256_of_file(file)}")
                     for file in sorted(path.parent.glob("*.safetensors"))]  # fmt: skip
        root = path.resolve().parents[5]
        children += images_nodes({"_folder": root / "experiment", "dataset": dataset})
    found = []
    for number in chosen.numbers:
        row = table.rows[number - 1]
        cells = [chosen.column] if chosen.column else [name for name in table.columns if name != "epoch"]
        values = ", ".join(f"{name} = {row[name]}" for name in cells)
        found.append(Node(f"{path}: epoch {row['epoch']}: {values}", tuple(children)))
    return found
