"""One plain sentence or two for each claim: what is known, from which class of evidence, and what is not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.deciding import Claim
from repvgg_companion.evidence.evidence_classes import (
    CLASSES,
    COUNTED,
    MEASURED_BY_OTHERS,
    MEASURED_HERE,
    NOTHING,
    PRINTED,
    REEVALUATED,
    RETRAINED,
    STUDY,
    WHOLE,
    EvidenceClass,
)
from repvgg_companion.paper.comparable_runs import PAPER_SHAPE
from repvgg_companion.paper.grammar import EXACT, Check, Quantity, parse
from repvgg_companion.paper.ours import grouped
from repvgg_companion.paper.verdicts import MET, NOT_MET, NOT_TESTED, OPEN

Row = Mapping[str, Any]
NOBODY = {
    "C34": "the use of the GPU was never published, and no source has both batch 128 and 256 of one network",
    "C53": "the paper gives no number and names no measurement to compare with",
}
"""Why nobody has any evidence, for the claims without a single row."""
COMPUTED = ("conversion-keeps-function", "winograd-f2x2-3x3")
"""The checks of structure that compute outputs on one network or tile instead of counting."""
SHAPE = f"batch {PAPER_SHAPE['batch_size']}, {PAPER_SHAPE['channels']} channels, {PAPER_SHAPE['resolution_px']} px"
_PARTS = {"speed": "speed", "density": "density", "top1": "accuracy", "miou": "mIoU"}


def require_evidence(claims: Sequence[Claim], rows: Sequence[Row], path: str) -> None:
    """Raise CompanionError with file and line for a claim that has neither a row of any class nor a stated reason."""
    found = {row["id"] for row in rows}
    for line, claim in enumerate(claims, start=2):
        if claim["id"] not in found and claim["id"] not in NOBODY:
            raise CompanionError(
                f"{path} line {line}: claim {claim['id']} has evidence of no class and no stated reason why; give it a "
                "condition that some class can decide"
            )


def summary(claim: Claim, rows: Sequence[Row]) -> str:
    """What is known about one claim, from its rows of all classes."""
    if not rows:
        return f"Nobody has any evidence: {NOBODY[claim['id']]}."
    by_class = {one: [row for row in rows if row["evidence_class"] == one.name] for one in CLASSES}
    sentences = [
        _counted(claim, by_class[COUNTED]),
        _measured(MEASURED_HERE, by_class[MEASURED_HERE], _speed_terms(claim)),
        _measured(MEASURED_BY_OTHERS, by_class[MEASURED_BY_OTHERS], _speed_terms(claim)),
        _others("The released weights, re-evaluated by others,", by_class[REEVALUATED], "evaluations"),
        _others("Retrainings by others", by_class[RETRAINED], "sources"),
        _studies(by_class[STUDY]),
        _printed(by_class[PRINTED]),
        _untested(claim, rows),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _measured(evidence_class: EvidenceClass, rows: Sequence[Row], n_speed_terms: int) -> str:
    """On how many settings of one class a claim holds; rows about only some of its speeds are counted apart."""
    decided = [row for row in rows if row["verdict_number"] != NOT_TESTED]
    devices = grouped(decided, lambda row: row["device"])
    if not decided and evidence_class == MEASURED_HERE:
        return f"{evidence_class.name.capitalize()}: other shapes only, which do not decide it." if rows else ""
    if not decided:
        return "Others published speeds of the train form only, which do not decide it." if rows else ""
    subject = "it"
    if any(row["part"] != WHOLE for row in decided):
        fewest = min(len(row["part"].split(" and ")) for row in decided)
        subject = "its speed part" if fewest >= n_speed_terms else "its speed part, as far as measured,"
    verdicts = [row["verdict_number"] for row in decided]
    noun = "setting" if len(verdicts) == 1 else "settings"
    if verdicts.count(OPEN) == len(verdicts):
        return (
            f"{evidence_class.name.capitalize()}: {subject} is open on {len(verdicts)} {noun} ({', '.join(devices)})."
        )
    text = f"{subject} holds on {verdicts.count(MET)} of {len(verdicts)} {noun}"
    for word, verdict in (("fails", NOT_MET), ("open", OPEN)):
        text += f", {word} on {verdicts.count(verdict)}" if verdict in verdicts else ""
    counts = [f"{device} {_of(mine)}" if len(devices) > 1 else device for device, mine in devices.items()]
    return f"{evidence_class.name.capitalize()}: {text} ({', '.join(counts)})."


def _of(rows: Sequence[Row]) -> str:
    verdicts = [row["verdict_number"] for row in rows]
    text = f"{verdicts.count(MET)} of {len(verdicts)}"
    return f"{text}, {verdicts.count(OPEN)} open" if OPEN in verdicts else text


def _speed_terms(claim: Claim) -> int:
    """How many terms of the claim are about speeds."""
    return sum(term.of_speeds for term in parse(claim["condition"]))


def _counted(claim: Claim, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    (row,) = rows
    subject = "It" if row["part"] == WHOLE else "What can be counted in it"
    way = f"computation ({row['evidence']})" if any(name in claim["condition"] for name in COMPUTED) else "counting"
    return f"{subject} {'holds' if row['verdict_number'] == MET else 'does not hold'} by {way}."


def _others(subject: str, rows: Sequence[Row], noun: str) -> str:
    decided = [row for row in rows if row["verdict_number"] != NOT_TESTED]
    if not decided:
        return ""
    whole = [row["part"] == WHOLE for row in decided]
    part = "it" if all(whole) else "it, or the part of it that was evaluated," if any(whole) else "a part of it"
    verdicts = [row["verdict_number"] for row in decided]
    opened = f" ({verdicts.count(OPEN)} open)" if OPEN in verdicts else ""
    noun = noun if len(decided) > 1 else noun.removesuffix("s")
    n_sources = len({row["source"] for row in decided})
    by = f" by {n_sources} source{'s' if n_sources > 1 else ''}" if n_sources < len(decided) else ""
    if verdicts.count(OPEN) == len(verdicts):
        return f"{subject} leave {part} open ({len(decided)} {noun}{by})."
    if MET not in verdicts:
        return f"{subject} do not meet {part} ({len(decided)} {noun}{by}{opened.replace(' (', ', ').rstrip(')')})."
    return f"{subject} meet {part} in {verdicts.count(MET)} of {len(decided)} {noun}{by}{opened}."


def _studies(rows: Sequence[Row]) -> str:
    return " ".join(f"Small study {row['source']}: {row['verdict_inference']}." for row in rows)


def _printed(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    (row,) = rows
    readme = row["source"].startswith("official")
    where = "The official README" if readme else "The paper's own tables"
    verb = {MET: "agree with", NOT_MET: "contradict"}.get(row["verdict_number"], "leave open")
    if readme:
        verb = verb.replace(" ", "s ", 1) if " " in verb else f"{verb}s"
    part = "the part that it gives" if readme else "the part that they give"
    return f"{where} {verb} {'it' if row['part'] == WHOLE else part}."


def untested_terms(claim: Claim, rows: Sequence[Row]) -> list[Any]:
    """The terms of the claim that no class but *printed* decides."""
    terms = parse(claim["condition"])
    tested = [row["part"] for row in rows if row["evidence_class"] != PRINTED.name and row["part"] != NOTHING]
    if WHOLE in tested:
        return []
    decided = {part for text in tested for part in text.split(" and ")}
    return [term for term in terms if str(term) not in decided]


def _untested(claim: Claim, rows: Sequence[Row]) -> str:
    terms = untested_terms(claim, rows)
    if not terms:
        return ""
    quantities = [part for term in terms for part in term.quantities if part.name not in EXACT]
    names = list(dict.fromkeys(_PARTS[part.name] for part in quantities))
    checks = [term for term in terms if isinstance(term, Check)]
    whole = len(terms) == len(parse(claim["condition"]))
    decided = {_PARTS[part.name] for term in parse(claim["condition"]) if str(term) not in map(str, terms)
               for part in term.quantities if part.name not in EXACT}  # fmt: skip
    rest = "the rest of its" if decided & set(names) else "its"
    subject = "it" if whole or not names else f"{rest} {' and '.join(names)} part"
    if checks and not names and not whole:
        subject = "the rest of it"
    return f"No test of {subject} is known beyond the authors' own{_why(quantities, rows)}."


def _why(quantities: Sequence[Quantity], rows: Sequence[Row]) -> str:
    subjects = {part.subject for part in quantities}
    if any(row["part"] == NOTHING and "baseline" in (row["reason"] or "") for row in rows):
        return ": public weights of the baselines are other trainings than the paper's"
    if any("_" in name and not name.startswith("PSPNet") for name in subjects):
        return ": no weights of these variants were released, and no retraining is known"
    if any(part.name == "density" for part in quantities):
        return f": only densities at the shape of Table 1 ({SHAPE}) decide it"
    if any(part.name == "miou" for part in quantities):
        return ": no evaluation of these networks on Cityscapes is known"
    return ""


def verdicts_by_class(rows: Sequence[Row]) -> dict[EvidenceClass, Counter]:
    """How often each verdict on the number was given, by class, in the order of the page."""
    return {one: Counter(row["verdict_number"] for row in rows if row["evidence_class"] == one.name) for one in CLASSES}
