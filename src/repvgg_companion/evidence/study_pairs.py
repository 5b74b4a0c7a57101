"""The pairs of networks that a study compares: differences over the seeds, with intervals and what is resolved.

A pair is any two networks of the study whose accuracies one term of a claim compares. The p values of all pairs of a
study are corrected together (Holm). A network with strides of its own stands for the paper's network of that name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from repvgg_companion.evidence.deciding import Claim
from repvgg_companion.models.names import without_strides
from repvgg_companion.paper.grammar import Comparison, NotAvailable, Term, parse
from repvgg_companion.paper.inference import Span, holm, over_seeds, seeds_to_resolve, welch
from repvgg_companion.paper.printed import Facts

SAME, OPPOSITE, NOT_RESOLVED = "same direction, resolved", "opposite direction, resolved", "not resolved"
STUDY_VERDICTS = (OPPOSITE, NOT_RESOLVED, SAME)
"""What a small study can say about a pair, worst first."""
LEVEL = 0.05
Seeds = dict[str, float]
"""Top-1 in percent by seed."""


@dataclass(frozen=True)
class Pair:
    """Two networks of a study, the one that the paper has above first; `printed` is the paper's difference."""

    upper: str
    lower: str
    claims: tuple[str, ...]
    printed: float
    difference: float
    span: Span
    p_corrected: float
    paired: Span | None
    """The interval over the differences seed by seed; None for fewer than three seeds in common."""
    seeds_needed: int | None
    """Seeds of each network that would resolve the difference seen, whatever the other pairs show (Bonferroni)."""

    @property
    def verdict(self) -> str:
        """One of `STUDY_VERDICTS`."""
        if self.p_corrected >= LEVEL:
            return NOT_RESOLVED
        return SAME if self.difference > 0 else OPPOSITE


def compares_two_accuracies(term: Term) -> bool:
    """Whether a term of a claim compares the top-1 of two networks."""
    return (
        isinstance(term, Comparison)
        and len(term.quantities) == 2
        and all(quantity.name == "top1" for quantity in term.quantities)
    )


def pairs_of(accuracies: dict[str, Seeds], facts: Facts) -> list[Pair]:
    """All pairs of networks with at least three seeds that claims compare, in the order of the claims."""
    found: dict[tuple[str, str], tuple[float, list[str]]] = {}
    networks = {without_strides(model): model for model in accuracies}
    for claim in facts.table("claims"):
        for term in parse(claim["condition"]):
            if compares_two_accuracies(term) and all(part.subject in networks for part in term.quantities):
                try:
                    one, other = sorted(term.quantities, key=facts.printed, reverse=True)
                    printed = facts.printed(one) - facts.printed(other)
                except NotAvailable:
                    continue
                pair = (networks[one.subject], networks[other.subject])
                claims = found.setdefault(pair, (printed, []))[1]
                claims += [claim["id"]] if claim["id"] not in claims else []
    tested = {}
    for names in found:
        result = welch([1.0, -1.0], [list(accuracies[name].values()) for name in names])
        if result is not None:
            tested[names] = result
    corrected = dict(zip(tested, holm([result.p_value for result in tested.values()]), strict=True))
    return [
        Pair(
            upper, lower, tuple(found[upper, lower][1]), found[upper, lower][0], result.centre, result.span,
            corrected[upper, lower], _paired(accuracies[upper], accuracies[lower]),
            seeds_to_resolve(result.centre, list(accuracies[upper].values()), list(accuracies[lower].values()),
                             1 - LEVEL / len(tested)),
        )
        for (upper, lower), result in tested.items()
    ]  # fmt: skip


def _paired(upper: Seeds, lower: Seeds) -> Span | None:
    differences = [upper[seed] - lower[seed] for seed in upper if seed in lower]
    return over_seeds([1.0], [differences]) if differences else None


def compared(claim: Claim, pairs: Sequence[Pair]) -> list[tuple[Term, Pair]]:
    """The terms of a claim that compare one of the pairs."""
    terms = [term for term in parse(claim["condition"]) if compares_two_accuracies(term)]
    return [
        (term, pair)
        for term in terms
        for pair in pairs
        if {part.subject for part in term.quantities} == {without_strides(pair.upper), without_strides(pair.lower)}
    ]


def worst(pairs: Sequence[Pair]) -> str:
    """The verdict on pairs that must all have the paper's direction."""
    return next(verdict for verdict in STUDY_VERDICTS if any(pair.verdict == verdict for pair in pairs))


def variation(model: str) -> str:
    """`identity-only` for RepVGG-B0_identity-only, `B0` for RepVGG-B0."""
    name = without_strides(model)
    return name.partition("_")[2] or name.removeprefix("RepVGG-")
