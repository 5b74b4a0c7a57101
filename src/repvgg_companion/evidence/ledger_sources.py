"""What a row of the ledger rests on: each part of its column `evidence`, followed."""

from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.named_sources import Places, followed
from repvgg_companion.evidence.tree import Node
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import FILES, Facts


def ledger_nodes(path: Path, row: dict[str, str], facts: Facts) -> Node:
    """The tree of one row of the ledger; folders of devices and studies are those beside the ledger's folder."""
    claim = next((claim for claim in facts.table("claims") if claim["id"] == row["id"]), None)
    if claim is None:
        raise CompanionError(f"{path}: {row['id']} is no claim of {facts.folder / FILES['claims']}")
    where = Node(f"{facts.folder / FILES['claims']}: {row['id']}, {claim['where_in_paper']}")
    folder = path.parent.parent
    words = frozenset(row["setting"].split(", "))
    places = Places(facts, Results(folder / "devices"), folder / "studies", row["source"], words)
    setting = ", ".join(part for part in (row["source"], row["device"], row["setting"]) if part)
    value, low, high = (row.get(name, "") for name in ("value", "low", "high"))
    value += f" [{low}, {high}]" if low else ""
    told = [f"value {value}" if value else "", "" if row["part"] == "whole claim" else f"about {row['part']}"]
    told.append(f"number {row['verdict_number']}, inference {row['verdict_inference']}")
    text = f"{path}: {row['id']}, {row['evidence_class']} ({setting}): {'; '.join(filter(None, told))}"
    return Node(text, (where, *followed(row["evidence"], places)))
