"""Rows of the class *small study*: trainings of this companion on other images, under `results/studies/NAME/`.

A study holds `accuracy.csv` by the results contract. It gives the direction of an effect with its interval and never
decides the paper's number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.deciding import Answer, Claim, RowOrigin, ledger_row
from repvgg_companion.evidence.evidence_classes import STUDY, WHOLE
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.grammar import Comparison, NotAvailable, Quantity, parse
from repvgg_companion.paper.inference import LEAST_SEEDS, over_seeds
from repvgg_companion.paper.ours import PAPER_DATASET, Reading, Results, describe_network
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import (
    INCONCLUSIVE,
    NOT_TESTED,
    Finding,
    accuracy_inference,
    bounds_of,
    keeps_bound,
    linear_side,
    value_text,
)

OTHER_IMAGES = "other images than the paper's: the direction of the effect only"


@dataclass(frozen=True)
class Study(Evidence):
    """The accuracies of one study, whatever images and width they belong to."""

    def read_together(self, quantities: Sequence[Quantity]) -> dict[Quantity, Reading]:
        """The accuracies of one comparison: all of a study belong to one setting."""
        return {quantity: self.read(quantity) for quantity in quantities}

    def read(self, quantity: Quantity) -> Reading:
        """The mean top-1 over the seeds of a network, of one form; raises NotAvailable where it was not trained."""
        rows = [row for row in self.results.rows("accuracy") if row["model"] == quantity.subject]
        if quantity.name != "top1" or not rows:
            raise NotAvailable(f"the study has no {quantity.name} of {quantity.subject}")
        form = "deploy" if any(row["form"] == "deploy" for row in rows) else "train"
        rows = sorted((row for row in rows if row["form"] == form), key=lambda row: row["seed"] or "")
        values = tuple(row["top1_pct"] for row in rows)
        evidence = f"accuracy.csv {quantity.subject} {form}, {len(rows)} seeds"
        return Reading(float(np.mean(values)), tuple(rows), (evidence,), values)


def read_studies(folder: Path, facts: Facts) -> list[Study]:
    """The studies below a folder; raises CompanionError for one without rows, or with the paper's own images."""
    studies = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir():
            continue
        study = Study(facts, Results(path))
        rows = study.results.rows("accuracy")
        if not rows:
            raise CompanionError(f"{path}/accuracy.csv has no rows; a study needs the accuracies of its trainings")
        settings = {(row["dataset"], row["width"], row["recipe"], row["input_px"]) for row in rows}
        if len(settings) > 1 or rows[0]["dataset"] == PAPER_DATASET:
            raise CompanionError(f"{path}/accuracy.csv line 2: a study has one dataset (not {PAPER_DATASET}), one "
                                 "width, one recipe and one input size")  # fmt: skip
        studies.append(study)
    return studies


def _direction(term: Comparison, study: Study) -> Answer:
    """Whether an effect has the claim's direction, by Welch's t interval over the trainings."""
    try:
        readings = study.read_together(term.quantities)
    except NotAvailable as missing:
        return Answer(term, Finding(NOT_TESTED, NOT_TESTED, reason=str(missing)))
    values = {quantity: reading.value for quantity, reading in readings.items()}
    evidence = tuple(line for reading in readings.values() for line in reading.evidence)
    constant, coefficients = linear_side(term, list(readings))
    span = over_seeds(coefficients, [reading.seeds for reading in readings.values()])
    text = value_text(term, values)
    if span is None:
        reason = f"fewer than {LEAST_SEEDS} trainings of a network"
        return Answer(term, Finding(NOT_TESTED, INCONCLUSIVE, text, reason=reason, evidence=evidence), shown=True)
    span = span.moved(constant)
    bounds = [(symbol, bound if keeps_bound(term) else 0.0) for symbol, bound in bounds_of(term, values)]
    inference = accuracy_inference(term, bounds[0], span, None)
    return Answer(term, Finding(NOT_TESTED, inference, text, span.low, span.high, evidence=evidence), shown=True)


def study_rows(claim: Claim, studies: Sequence[Study]) -> Iterator[dict[str, Any]]:
    """The rows of one claim: the comparisons of accuracies of two or more networks, one row a study."""
    terms = parse(claim["condition"])
    compared = [term for term in terms if isinstance(term, Comparison) and len(term.quantities) > 1
                and all(part.name == "top1" for part in term.quantities)]  # fmt: skip
    for study in studies:
        answers = [_direction(term, study) for term in compared]
        used = [answer for answer in answers if answer.shown]
        first = study.results.rows("accuracy")[0]
        origin = RowOrigin(STUDY, study.results.folder.name, describe_network(first), differs=[OTHER_IMAGES])
        row = ledger_row(claim, origin, answers, len(terms))
        if row is not None:
            part = WHOLE if len(terms) == len(used) else " and ".join(str(answer.term) for answer in used)
            yield row | {"part": part}
