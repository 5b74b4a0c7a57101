"""What cells rest on: measured rows, the paper's tables, claims, the ledger, trainings, study pairs."""

from collections.abc import Sequence
from pathlib import Path

from repvgg_companion.contract import with_interval
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import Chosen
from repvgg_companion.evidence.claim_sources import claim_basis, evidence_of
from repvgg_companion.evidence.evidence_classes import WHOLE
from repvgg_companion.evidence.from_studies import read_study
from repvgg_companion.evidence.named_sources import Places, followed
from repvgg_companion.evidence.picture_points import pair_source, printed_pair_source
from repvgg_companion.evidence.raw_row import Node, basis_node, images_nodes, raw_node
from repvgg_companion.evidence.study_picture import pair_name
from repvgg_companion.evidence.table_sources import cell_basis
from repvgg_companion.files import sha256_of_file
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import widest
from repvgg_companion.paper.ours import Results, grouped
from repvgg_companion.paper.printed import FILES, Facts


def raw_nodes(chosen: Chosen, _: Facts) -> list[Node]:
    """Rows of a table of the contract that runs measured."""
    path, column = chosen.table.path, chosen.column
    results = Results(path.parent)
    found = []
    for number in chosen.numbers:
        row = results.rows(path.stem)[number - 1]
        node = raw_node(results, path.stem, row)
        found.append(node if column is None else Node(f"{node.text}, column {column} = {row[column]}", node.children))
    return found


def table_nodes(chosen: Chosen, facts: Facts) -> list[Node]:
    """Cells of the paper's tables beside ours."""
    path = chosen.table.path
    results = Results(path.parent.parent)
    speeds = widest(results)
    evidence = Evidence(facts, results, speeds, "" if speeds else "speed.csv holds no usable rows")
    found = []
    for number, row in chosen.rows:
        for column in [chosen.column] if chosen.column else [name for name, value in row.items() if value]:
            basis = cell_basis(evidence, path.stem, number, column)
            found.append(_cell_node(path, number, column, row, [basis_node(results, part) for part in basis]))
    return _joined(found) if chosen.column is None else found


def _cell_node(path: Path, number: int, column: str, row: dict[str, str], children: Sequence[Node]) -> Node:
    who = next((row[name] for name in ("model", "kernel_size", "stage") if row.get(name)), "")
    value = f"is {row[column]}" if row[column] else f"is empty: {row.get('note') or 'no reason is given'}"
    return Node(f"{path}: row {number} ({who}), column {column} {value}", tuple(children))


def _joined(nodes: list[Node]) -> list[Node]:
    """Cells of one row that rest on the same things, as one node."""
    groups = grouped(nodes, lambda node: node.children)
    return [Node(f"{cells[0].text}{_and_more(cells)}", children) for children, cells in groups.items()]


def _and_more(cells: list[Node]) -> str:
    others = [cell.text.rpartition(", column ")[2].replace(" is ", " = ", 1) for cell in cells[1:]]
    return f"; and on the same rest {', '.join(others)}" if others else ""


def claim_nodes(chosen: Chosen, facts: Facts) -> list[Node]:
    """Verdicts on claims: what each term rests on."""
    path = chosen.table.path
    results = Results(path.parent)
    claims = {claim["id"]: claim for claim in facts.table("claims")}
    found = []
    for number, row in chosen.rows:
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
        ours = with_interval(row["our_value"] or "none", row["low"], row["high"])
        text = f"{path}: row {number}, {row['id']}{f' on {setting}' if setting else ''}: {verdicts}"
        found.append(Node(f"{text}; ours: {ours}", (where, *terms)))
    return found


def ledger_nodes(chosen: Chosen, facts: Facts) -> list[Node]:
    """Rows of the ledger; folders of devices and studies are those beside the ledger's folder."""
    path, results = chosen.table.path, chosen.table.path.parent.parent
    claims, listed = {claim["id"]: claim for claim in facts.table("claims")}, facts.folder / FILES["claims"]
    found = []
    for _, row in chosen.rows:
        if row["id"] not in claims:
            raise CompanionError(f"{path}: {row['id']} is not a claim of {listed}")
        where = Node(f"{listed}: {row['id']}, {claims[row['id']]['where_in_paper']}")
        words = frozenset(row["setting"].split(", "))
        places = Places(facts, Results(results / "devices"), results / "studies", row["source"], words)
        setting = ", ".join(part for part in (row["source"], row["device"], row["setting"]) if part)
        value = "value " + with_interval(row["value"] or "none", row["low"], row["high"])
        told = [value if row["value"] or row["low"] else "", "" if row["part"] == WHOLE else f"about {row['part']}"]
        told.append(f"number {row['verdict_number']}, inference {row['verdict_inference']}")
        text = f"{path}: {row['id']}, {row['evidence_class']} ({setting}): {'; '.join(filter(None, told))}"
        found.append(Node(text, (where, *followed(row["evidence"], places))))
    return found


def study_nodes(chosen: Chosen, facts: Facts) -> list[Node]:
    """Pairs of networks in the table of a small study, each with its seeds and the printed accuracies."""
    path = chosen.table.path
    studies = path.parent.parent / "studies"
    study = read_study(studies / path.stem, facts)
    pairs = {pair_name(pair): pair for pair in study.pairs}
    places = Places(facts, study.results, studies, study.name)
    found = []
    for number, row in chosen.rows:
        pair = pairs.get(row["pair"])
        if pair is None:
            raise CompanionError(f"{path}: row {number} is {row['pair']}, a pair that {study.name} does not have; "
                                 "write the ledger again")  # fmt: skip
        cell = f", column {chosen.column} = {row[chosen.column]}" if chosen.column else ""
        text = f"{path}: row {number} ({row['pair']}){cell}: {row['ours_points']} points over seeds, {row['verdict']}"
        sources = f"{printed_pair_source(facts, pair)}; {pair_source(study, pair)}"
        found.append(Node(text, tuple(followed(sources, places))))
    return found


def history_nodes(chosen: Chosen, _: Facts) -> list[Node]:
    """Epochs of a training: of a study, or beside the weights `weights/DATASET/MODEL/DIGEST/seedK`."""
    path = chosen.table.path
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
    for _number, row in chosen.rows:
        cells = [chosen.column] if chosen.column else [name for name in row if name != "epoch"]
        values = ", ".join(f"{name} = {row[name]}" for name in cells)
        found.append(Node(f"{path}: epoch {row['epoch']}: {values}", tuple(children)))
    return found
