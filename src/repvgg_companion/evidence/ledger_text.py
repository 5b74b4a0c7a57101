"""The ledger as Markdown: the claims in the order of the paper, each with its summary and its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from repvgg_companion.contract import with_interval
from repvgg_companion.evidence.deciding import Claim
from repvgg_companion.evidence.evidence_classes import CLASSES, NOTHING
from repvgg_companion.evidence.groups import by_heading
from repvgg_companion.evidence.summaries import summary
from repvgg_companion.paper.verdicts import DISTURBED_REASON, OPEN

Row = Mapping[str, Any]
INTRODUCTION = """# The state of the evidence

For every claim of the paper *RepVGG: Making VGG-style ConvNets Great Again* (Ding et al., CVPR 2021): which evidence
exists, from whom, and whether the claim holds on it. Kinds of evidence are kept apart, because they differ in strength.
All rows with sources and reasons are in [`ledger.csv`](ledger.csv); [`ledger-dictionary.csv`](ledger-dictionary.csv)
explains its columns, and [`ledger.html`](ledger.html) is the page to read.

*Number*: is the printed value or order met? *Inference*: is the effect there in the claim's direction, beyond the
noise, whatever its size? *Part*: the terms of the claim that the source can answer; "no part" marks a value that is
shown but decides nothing, and says why. *Disturbed*: the speeds drifted or scattered beyond their limits, so they
decide nothing.
"""


def markdown(claims: Sequence[Claim], rows: Sequence[Row]) -> str:
    """The text of `ledger.md`."""
    parts = [INTRODUCTION, "| evidence class | what it is worth |", "| --- | --- |"]
    parts += [f"| **{one.name}** | {one.worth} |" for one in CLASSES]
    for group, members in by_heading(claims).items():
        parts += ["", f"## {group}"]
        for claim in members:
            mine = [row for row in rows if row["id"] == claim["id"]]
            parts += ["", f"### {claim['id']} {claim['claim']}", "", summary(claim, mine)]
            if mine:
                parts += ["", "| class | source | setting | part | value | number | inference |", "|" + " --- |" * 7]
                parts += [_line(row) for row in mine]
    return "\n".join(parts) + "\n"


def _line(row: Row) -> str:
    setting = ", ".join(filter(None, (row["device"], row["setting"])))
    part = f"{NOTHING}: {row['reason']}" if row["part"] == NOTHING else row["part"]
    cells = (row["evidence_class"], row["source"], setting, part, value_with_interval(row),
             _number(row), row["verdict_inference"])  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(row: Row) -> str:
    disturbed = row["verdict_number"] == OPEN and DISTURBED_REASON in (row["reason"] or "")
    return f"{OPEN} (disturbed)" if disturbed else row["verdict_number"]


def value_with_interval(row: Row) -> str:
    """`1.38 [1.35, 1.41]`: the value of a row with its interval if there is one."""
    return with_interval(row["value"], row["low"], row["high"])
