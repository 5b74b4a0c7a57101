"""Rows of the class *printed*: whether a claim follows from the paper's own tables or from the official README."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from repvgg_companion.evidence.deciding import Claim, Offer, Published, RowOrigin, ledger_row, published_answers
from repvgg_companion.evidence.evidence_classes import PRINTED
from repvgg_companion.evidence.third_party import PublishedAccuracy
from repvgg_companion.paper.grammar import Check, Quantity, parse
from repvgg_companion.paper.ours import Reading

ON_PRINT = ("every-baseline-matched", "wino-ranks-speed")
"""The checks that compare printed numbers; the others are about structure."""


@dataclass(frozen=True)
class Print(Published):
    """The printed numbers; trainings by the authors that only their README reports come from `by_authors`."""

    by_authors: Sequence[PublishedAccuracy] = field(default=())

    def offer(self, quantity: Quantity) -> Offer:
        """The printed value; raises NotAvailable if nothing is printed."""
        if quantity.origin == "retrained":
            for row in self.by_authors:
                if row.model == quantity.subject:
                    return Offer(row.top1_pct, f"paper/{row.file} line {row.line}")
        return Offer(self.facts.printed(quantity), f"printed {quantity}")

    def read(self, quantity: Quantity) -> Reading:
        """Counts are printed too, so nothing is counted here."""
        offer = self.offer(quantity)
        return Reading(offer.value, (), (offer.evidence,))


def printed_row(claim: Claim, source: Print) -> Iterator[dict[str, Any]]:
    """The row of one claim; None where the claim is about nothing that is printed."""
    terms = parse(claim["condition_on_printed_numbers"] or claim["condition"])
    asked = [term for term in terms if not isinstance(term, Check) or term.name in ON_PRINT]
    tolerance = float(claim["tolerance_retrained"]) if claim["id"] == "P03" else None
    answers = published_answers(asked, source, tolerance, fixed=True, exact=True)
    tables = claim["tables"].split(" ")[0].strip(";").replace(";", ", ")
    where = f"Table {tables}" if tables[:1].isdigit() else "text"
    speeds = any(part.is_speed for term in terms for part in term.quantities)
    origin = RowOrigin(
        PRINTED,
        "official README" if claim["where_in_paper"].startswith("README") else f"the paper, {where}",
        "fp32" if speeds else "",
        "GTX 1080 Ti" if speeds else "",
    )
    return ledger_row(claim, origin, answers, len(terms))
