"""The ledger as one self-contained HTML page: claims with marks, summaries and fold-outs, filtered by a script."""

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repvgg_companion.evidence.deciding import Claim
from repvgg_companion.evidence.evidence_classes import CLASSES, PRINTED
from repvgg_companion.evidence.groups import by_heading
from repvgg_companion.evidence.ledger_text import value_with_interval
from repvgg_companion.evidence.summaries import summary, verdicts_by_class
from repvgg_companion.paper.figure_style import COLUMN_INCHES
from repvgg_companion.paper.verdicts import MET, NOT_MET, NOT_TESTED, OPEN

Row = Mapping[str, Any]
SIGNS = {
    "met": ("✓", "met in every row that decides it"),
    "not-met": ("✗", "not met in any row that decides it"),
    "mixed": ("±", "met in some rows, not met in others"),
    "open": ("?", "open in every row: the interval or a disturbance leaves it undecided"),
    "not-tested": ("·", "a value is shown, but it does not decide the claim"),
    "none": ("–", "no evidence of this class"),
}
"""The sign of each mark and its meaning."""


def page(claims: Sequence[Claim], rows: Sequence[Row], pictures: Mapping[str, str]) -> str:
    """The HTML text; `pictures` are SVG texts by caption."""
    from jinja2 import Environment, StrictUndefined

    template = Path(__file__).with_name("ledger_page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    decided = [row for row in rows if row["verdict_number"] in (MET, NOT_MET)]
    return environment.from_string(template).render(
        groups={name: [_claim(claim, rows) for claim in members] for name, members in by_heading(claims).items()},
        classes=CLASSES,
        signs=SIGNS,
        devices=sorted({row["device"] for row in rows if row["device"]}),
        verdicts=(MET, NOT_MET, OPEN, NOT_TESTED),
        n_claims=len(claims),
        n_decided=len({row["id"] for row in decided}),
        n_beyond=len({row["id"] for row in decided if row["evidence_class"] != PRINTED.name}),
        pictures={caption: _picture(svg) for caption, svg in pictures.items()},
    )


def _picture(svg: str) -> dict[str, Any]:
    """The picture in base64, and whether it is wider than one column of the paper."""
    width_pt = re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)
    wide = width_pt is not None and float(width_pt[1]) / 72 > 1.5 * COLUMN_INCHES
    return {"base64": base64.b64encode(svg.encode()).decode(), "wide": wide}


def _claim(claim: Claim, rows: Sequence[Row]) -> dict[str, Any]:
    mine = [row for row in rows if row["id"] == claim["id"]]
    marks = [(one, _sign(counts), sum(counts.values())) for one, counts in verdicts_by_class(mine).items()]
    return {
        "id": claim["id"],
        "text": claim["claim"],
        "where": claim["where_in_paper"],
        "printed": claim["printed_value"],
        "condition": claim["condition"],
        "note": claim["note"],
        "summary": summary(claim, mine),
        "marks": marks,
        "rows": [{**row, "shown_value": value_with_interval(row)} for row in mine],
    }


def _sign(counts: Counter) -> str:
    """The key of `SIGNS` for the verdicts of one class on one claim."""
    if not counts:
        return "none"
    if counts[MET] and counts[NOT_MET]:
        return "mixed"
    for verdict, sign in ((MET, "met"), (NOT_MET, "not-met"), (OPEN, "open")):
        if counts[verdict]:
            return sign
    return "not-tested"
