"""What a row of the ledger rests on: measured rows of a device or a study, or lines of printed and published tables."""

import re
from collections.abc import Iterator
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import read_table
from repvgg_companion.evidence.claim_sources import claim_basis, evidence_of
from repvgg_companion.evidence.raw_row import basis_node, raw_node
from repvgg_companion.evidence.table_sources import printed
from repvgg_companion.evidence.tree import Node
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import FILES, Facts

_LINE = re.compile(r"paper/(\S+) line (\d+)")
_PRINTED = re.compile(r"printed (\w+)\((.*)\)")
_STUDY = re.compile(r"accuracy\.csv (\S+) (train|deploy), \d+ seeds")
_COLUMNS = {
    "top1": ("top1_pct",),
    "miou": ("mean_iou_pct",),
    "speed": ("speed_examples_per_s", "speed_without_reparam_examples_per_s"),
    "params": ("params_m",),
    "flops": ("flops_b",),
    "wino": ("wino_muls_b",),
}


def ledger_nodes(path: Path, row: dict[str, str], facts: Facts) -> Node:
    """The tree of one row of the ledger; folders of devices and studies are those beside the ledger's folder."""
    claim = next((claim for claim in facts.table("claims") if claim["id"] == row["id"]), None)
    if claim is None:
        raise CompanionError(f"{path}: {row['id']} is no claim of {facts.folder / FILES['claims']}")
    where = Node(f"{facts.folder / FILES['claims']}: {row['id']}, {claim['where_in_paper']}")
    kind = row["evidence_class"]
    if kind == "measured here":
        children = _measured(path.parent.parent / "devices", claim, row, facts)
    else:
        children = list(_followed(path.parent.parent / "studies" / row["source"], row["evidence"], facts))
    setting = ", ".join(part for part in (row["source"], row["device"], row["setting"]) if part)
    value, low, high = (row.get(name, "") for name in ("value", "low", "high"))
    value += f" [{low}, {high}]" if low else ""
    verdicts = f"number {row['verdict_number']}, inference {row['verdict_inference']}"
    text = f"{path}: {row['id']}, {kind} ({setting}): {f'value {value}; ' if value else ''}{verdicts}"
    return Node(text, (where, *children))


def _measured(devices: Path, claim: dict, row: dict[str, str], facts: Facts) -> list[Node]:
    results = Results(devices)
    precision, backend = ([*row["setting"].split(", "), "", ""])[:2]
    setting = {"device": row["device"], "precision": precision, "backend": backend}
    evidence = evidence_of(claim, facts, results, setting)
    return [
        Node(f"term {term}", tuple(basis_node(results, part) for part in basis))
        for term, basis in claim_basis(claim, evidence)
    ]


def _followed(study: Path, evidence: str, facts: Facts) -> Iterator[Node]:
    """A node for each part of the column `evidence`."""
    for part in filter(None, re.split(r";\s*", evidence)):
        if match := _LINE.search(part):
            yield published_node(facts.folder / match[1], int(match[2]))
        elif match := _PRINTED.fullmatch(part):
            subject, *qualifiers = (word.strip() for word in match[2].split(","))
            yield printed_node(Quantity(match[1], subject, tuple(qualifiers)), facts)
        elif match := _STUDY.match(part):
            results = Results(study)
            rows = [row for row in results.rows("accuracy") if (row["model"], row["form"]) == (match[1], match[2])]
            yield Node(part, tuple(raw_node(results, "accuracy", row) for row in rows))
        else:
            yield Node(part)


def published_node(path: Path, line: int) -> Node:
    """A line of a table that others published."""
    table = read_table(path)
    if not 2 <= line <= len(table.rows) + 1:
        raise CompanionError(f"{path} has no line {line}; write the ledger again")
    row = table.rows[line - 2]
    return Node(f"{path}: line {line}: " + "; ".join(f"{name}: {value}" for name, value in row.items() if value))


def printed_node(quantity: Quantity, facts: Facts) -> Node:
    """The table, row and column in which the paper prints a quantity."""
    value = facts.printed(quantity)
    nothing = Evidence(facts, Results(Path()))
    if quantity.name == "density":
        sizes = [str(row["kernel_size"]) for row in facts.table("table1")]
        return Node(printed(nothing, "table1", sizes.index(quantity.subject) + 1, "density_tflops").words)
    for name in ("table4", "table5", "table6", "table7", "table8"):
        for number, row in enumerate(facts.table(name), start=1):
            mine = row["model"] == quantity.subject
            column = next((key for key in _COLUMNS[quantity.name] if mine and row.get(key) == value), None)
            if column is not None:
                return Node(printed(nothing, name, number, column).words)
    for number, row in enumerate(facts.table("released"), start=1):
        if row["model"] == quantity.subject and row["top1_official_pct"] == value:
            where = f"{facts.folder / FILES['released']}: row {number}, column top1_official_pct = {value}"
            return Node(f"{where}; printed in {row['official_number_source']}")
    return Node(f"printed {quantity} = {value}")
