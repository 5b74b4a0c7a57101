"""Rows of the class *counted*: arithmetic and structure, decided on the networks themselves."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from repvgg_companion.evidence.deciding import Answer, Claim, RowOrigin, is_exact, ledger_row
from repvgg_companion.evidence.evidence_classes import COUNTED
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.grammar import Check, Comparison, parse
from repvgg_companion.paper.named_checks import CHECKS
from repvgg_companion.paper.verdicts import judge

STRUCTURAL = (
    "plain-inference-body", "conversion-keeps-function", "winograd-f2x2-3x3", "operators-per-block",
    "residual-block-doubles-memory", "last-stage-is-cheap", "efficientnet-has-no-winograd-conv",
)  # fmt: skip
"""The checks of structure, which need no measurement."""
_SAME_EVERYWHERE = {
    "conversion-keeps-function": "equal within 1e-10 of the largest output in float64 and 1e-4 in float32"
}
"""Values in words, where the last digits depend on the machine."""


def counted_row(claim: Claim, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The row of one claim; `evidence` holds no results, so all is counted now; none where nothing can be counted."""
    terms = parse(claim["condition"])
    answers = []
    for term in terms:
        if isinstance(term, Check) and term.name in STRUCTURAL:
            finding = CHECKS[term.name](evidence)
            if term.name in _SAME_EVERYWHERE and not finding.reason:
                finding = replace(finding, value=_SAME_EVERYWHERE[term.name])
            answers.append(Answer(term, finding))
        elif isinstance(term, Comparison) and is_exact(term):
            answers.append(Answer(term, judge(term, evidence)))
    return ledger_row(claim, RowOrigin(COUNTED, "this companion"), answers, len(terms))
