"""How one source of numbers decides the terms of a claim, and the ledger row that follows.

A source answers the terms whose quantities it has. The verdict is about these terms only, and `part` names them unless
they are the whole claim. Numbers of another network or recipe than the claim's are shown but decide nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repvgg_companion.evaluation.accuracy import wilson_interval_pct
from repvgg_companion.evidence.evidence_classes import NOTHING, WHOLE, EvidenceClass
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.grammar import EXACT, Check, Comparison, NotAvailable, Quantity, Term
from repvgg_companion.paper.inference import Span
from repvgg_companion.paper.named_checks import CHECKS
from repvgg_companion.paper.ours import Reading, count
from repvgg_companion.paper.verdicts import (
    INCONCLUSIVE,
    NOT_TESTED,
    SEED_SPREAD,
    Finding,
    accuracy_inference,
    bounds_of,
    joined,
    keeps_bound,
    linear_side,
    number_verdict,
    our_values,
    value_text,
)

Claim = Mapping[str, Any]
NO_INTERVAL = "no interval was published"


@dataclass(frozen=True)
class Offer:
    """A published value of a quantity. `off` says why it is not the claim's quantity; empty if it is.

    `n_images` is the number of images behind an accuracy, None where it is not known.
    """

    value: float
    evidence: str
    off: str = ""
    n_images: int | None = None


@dataclass(frozen=True)
class Published(Evidence):
    """Numbers that someone published, readable like our own results; a subclass finds them."""

    name: str = ""

    def offer(self, quantity: Quantity) -> Offer:
        """The published value; raises NotAvailable if this source has none."""
        raise NotAvailable(f"{self.name} has no {quantity.name}")

    def read_together(self, quantities: Sequence[Quantity]) -> dict[Quantity, Reading]:
        """The values of all quantities of one comparison: one source gives them under one setting."""
        return {quantity: self.read(quantity) for quantity in quantities}

    def read(self, quantity: Quantity) -> Reading:
        """The published value where it is the claim's quantity, a count where the quantity is exact."""
        if quantity.name in EXACT:
            return count(self.results, quantity)
        offer = self.offer(quantity)
        if offer.off:
            raise NotAvailable(offer.off)
        return Reading(offer.value, (), (offer.evidence,))


@dataclass(frozen=True)
class Answer:
    """What a source says about one term; `shown` marks a value that decides nothing."""

    term: Term
    finding: Finding
    shown: bool = False

    @property
    def decides(self) -> bool:
        """Whether the term got a verdict."""
        return self.finding.number != NOT_TESTED


@dataclass(frozen=True)
class RowOrigin:
    """Where the numbers of a row come from: its class, its source, the setting and what differs from the paper."""

    evidence_class: EvidenceClass
    source: str
    setting: str = ""
    device: str = ""
    differs: Sequence[str] = field(default=())


def is_exact(term: Term) -> bool:
    """Whether a comparison needs nothing but counts."""
    return isinstance(term, Comparison) and all(quantity.name in EXACT for quantity in term.quantities)


def published_answers(
    terms: Sequence[Term],
    source: Published,
    tolerance: float | None = None,
    *,
    fixed: bool = False,
    exact: bool = False,
) -> list[Answer]:
    """The answers of a published source; terms of counts alone are left to the class *counted* unless `exact`.

    `fixed` numbers (printed, or of released weights) are judged as they are, trainings with their scatter.
    `tolerance` is in points of accuracy and widens equalities of accuracies only. A single accuracy gets a Wilson
    interval where its number of images is known; nothing else has an interval.
    """
    answers = []
    for term in terms:
        if isinstance(term, Check):
            finding = CHECKS[term.name](source)
            answers.append(Answer(term, finding))
        elif exact or not is_exact(term):
            answers.append(_published_answer(term, source, tolerance, fixed=fixed))
    return answers


def _published_answer(term: Comparison, source: Published, tolerance: float | None, *, fixed: bool) -> Answer:
    try:
        readings = {quantity: source.read(quantity) for quantity in term.quantities}
    except NotAvailable as missing:
        return _shown(term, source, str(missing))
    values = {quantity: reading.value for quantity, reading in readings.items()}
    evidence = tuple(line for reading in readings.values() for line in reading.evidence)
    if not all(quantity.is_accuracy for quantity in term.quantities):
        side, bounds = term.value(values), bounds_of(term, values)
        finding = Finding(number_verdict(side, side, bounds), INCONCLUSIVE, value_text(term, values),
                          reason=NO_INTERVAL, evidence=evidence)  # fmt: skip
        return Answer(term, finding)
    constant, coefficients = linear_side(term, list(readings))
    side = constant + sum(factor * values[quantity] for factor, quantity in zip(coefficients, values, strict=True))
    bounds = [(symbol, bound if keeps_bound(term) else 0.0) for symbol, bound in bounds_of(term, values)]
    # One training by others scatters as ours would; released weights and printed numbers are fixed.
    half = 0.0 if fixed else SEED_SPREAD * math.sqrt(sum(factor**2 for factor in coefficients))
    margin = tolerance if term.is_equality else None
    number = number_verdict(side - half, side + half, bounds, margin)
    span = _wilson(term, source)
    inference, reason = INCONCLUSIVE, NO_INTERVAL
    if span is not None and fixed:
        inference, reason = accuracy_inference(term, bounds[0], span, margin), "the interval is for new images"
    elif not fixed:
        reason = f"one training, judged with the {SEED_SPREAD} points by which retrainings scatter"
        reason += "; the interval is for new images" if span else ""
    low, high = (span.low, span.high) if span else (None, None)
    return Answer(term, Finding(number, inference, value_text(term, values), low, high, margin, reason, evidence))


def _shown(term: Comparison, source: Published, reason: str) -> Answer:
    """A value that does not decide, if the source has numbers of related networks for all quantities."""
    try:
        values = {
            quantity: source.read(quantity).value if quantity.name in EXACT else source.offer(quantity).value
            for quantity in term.quantities
        }
        evidence = tuple(source.offer(quantity).evidence for quantity in term.quantities if quantity.name not in EXACT)
    except NotAvailable as missing:
        return Answer(term, Finding(NOT_TESTED, NOT_TESTED, reason=str(missing)))
    if len(set(evidence)) < len(evidence):  # one row in place of both forms of a network
        return Answer(term, Finding(NOT_TESTED, NOT_TESTED, reason=reason))
    finding = Finding(NOT_TESTED, NOT_TESTED, value_text(term, values), reason=reason, evidence=evidence)
    return Answer(term, finding, shown=True)


def _wilson(term: Comparison, source: Published) -> Span | None:
    """The interval of a single accuracy, less the constant that a difference subtracts."""
    if len(term.quantities) != 1 or term.quantities[0].name != "top1":
        return None
    quantity = term.quantities[0]
    offer = source.offer(quantity)
    if offer.n_images is None:
        return None
    low, high = wilson_interval_pct(round(offer.value / 100 * offer.n_images), offer.n_images)
    return Span("new images", term.value({quantity: low}), term.value({quantity: high}))


def used_answers(answers: Sequence[Answer]) -> list[Answer]:
    """The answers that a row is made of: those that decide their term, else those that are shown."""
    return [answer for answer in answers if answer.decides] or [answer for answer in answers if answer.shown]


def ledger_row(claim: Claim, origin: RowOrigin, answers: Sequence[Answer], n_terms: int) -> Iterator[dict[str, Any]]:
    """The ledger row of one claim and source; none where the source has nothing to say about the claim."""
    used = used_answers(answers)
    if not used:
        return
    findings = [answer.finding for answer in used]
    with_interval = next((finding for finding in findings if finding.low is not None), None)
    if not used[0].decides:
        part = NOTHING
    else:
        part = WHOLE if len(used) == n_terms else " and ".join(str(answer.term) for answer in used)
    yield {
        "id": claim["id"],
        "evidence_class": origin.evidence_class.name,
        "source": origin.source,
        "setting": origin.setting,
        "device": origin.device,
        "part": part,
        "value": our_values(findings),
        "low": with_interval.low if with_interval else None,
        "high": with_interval.high if with_interval else None,
        "verdict_number": joined([finding.number for finding in findings]),
        "verdict_inference": joined([finding.inference for finding in findings]),
        "reason": "; ".join(dict.fromkeys(finding.reason for finding in findings if finding.reason)),
        "differs": "; ".join(origin.differs),
        "evidence": "; ".join(dict.fromkeys(line for finding in findings for line in finding.evidence)),
    }
