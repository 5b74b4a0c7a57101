"""A second, naive reading of what the ledger rests on: CSV rows, conditions of claims, values as text, verdicts.

It shares no code with the rooms `paper` and `evidence`, so that an error there is not repeated here.
"""

import ast
import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("id", "evidence_class", "source", "setting", "device", "part", "value", "low", "high", "verdict_number",
           "verdict_inference", "reason", "differs", "evidence")  # fmt: skip
COUNTS = ("params", "flops", "wino", "members", "layers")
SPREAD = 0.25
Row = dict[str, str]
_QUANTITY = re.compile(r"\b(top1|miou|speed|density|params|flops|wino|members|layers)\(([^()]*)\)")
_OPERATOR = re.compile(r"<=|>=|<|>|=")
_WORST_FIRST = ("contradicted", "not met", "not tested", "open", "inconclusive", "met", "reproduced")


def read(path: Path) -> list[Row]:
    """The rows of a CSV file as text."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@dataclass(frozen=True)
class Quantity:
    """`speed(RepVGG-B0, train)`."""

    name: str
    model: str
    words: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        return "train" if "train" in self.words else "deploy"

    @property
    def is_count(self) -> bool:
        return self.name in COUNTS

    def word(self, ending: str) -> str:
        """The qualifier that ends so; empty without one."""
        return next((word for word in self.words if word.endswith(ending)), "")

    def __str__(self) -> str:
        return f"{self.name}({', '.join((self.model, *self.words))})"


Values = dict[Quantity, float]


@dataclass(frozen=True)
class Term:
    """One comparison, its quantities written as `q[0]`, `q[1]`; or the name of a check."""

    text: str
    check: str = ""
    sides: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    quantities: tuple[Quantity, ...] = ()

    @property
    def is_count(self) -> bool:
        return not self.check and all(one.is_count for one in self.quantities)

    @property
    def operator(self) -> str:
        """`ratio` or `difference`, by the outermost operation of the measured side."""
        top = getattr(ast.parse(self.sides[self._place], mode="eval").body, "op", None)
        return "ratio" if isinstance(top, ast.Div | ast.Mult) else "difference" if isinstance(top, ast.Sub) else ""

    @property
    def _place(self) -> int:
        return 1 if len(self.sides) == 3 else 0

    def _side(self, place: int, values: Values) -> float:
        found = [values[one] for one in self.quantities]
        return eval(self.sides[place], {"q": found, "trunc": _truncated})

    def measured(self, values: Values) -> float:
        """The side that is measured: the middle of a band, else the left one."""
        return self._side(self._place, values)

    def bounds(self, values: Values) -> list[tuple[str, float]]:
        """What the measured side is compared with."""
        if len(self.sides) == 2:
            return [(self.symbols[0], self._side(1, values))]
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
        return [(turned[self.symbols[0]], self._side(0, values)), (self.symbols[1], self._side(2, values))]

    @property
    def has_constant_bound(self) -> bool:
        return not any("q[" in side for place, side in enumerate(self.sides) if place != self._place)

    def shown(self, values: Values) -> str:
        """The value in the ledger: a difference with its sign, both sides of an order, else the measured side."""
        value = self.measured(values)
        if self.operator == "difference":
            return f"{value:+.4g}"
        both = not self.operator and len(self.quantities) == 2
        return " vs ".join(self._digits(one) for one in ([value, self.bounds(values)[0][1]] if both else [value]))

    def _digits(self, value: float) -> str:
        return f"{value:,.0f}" if self.is_count and value == round(value) else f"{value:.6g}"


def _truncated(value: float, digits: int = 0) -> float:
    return math.floor(value * 10**digits + 1e-7) / 10**digits


def terms_of(condition: str) -> list[Term]:
    """The terms of a condition; the recipe after '@' belongs to every top1 that names none."""
    body, _, recipe = condition.partition("@")
    return [_term(text.strip(), recipe.strip()) for text in re.split(r"\s+and\s+", body)]


def _term(text: str, recipe: str) -> Term:
    if text.startswith("check("):
        return Term(text, check=text[len("check(") : -1])
    found: list[Quantity] = []

    def place(match: re.Match) -> str:
        model, *words = (word.strip() for word in match[2].split(","))
        if match[1] == "top1" and recipe and not any(word.endswith("-epochs") for word in words):
            words.append(recipe)
        quantity = Quantity(match[1], model, tuple(words))
        found.extend([] if quantity in found else [quantity])
        return f"q[{found.index(quantity)}]"

    plain = _QUANTITY.sub(place, text)
    sides = tuple(side.strip() for side in _OPERATOR.split(plain))
    return Term(text, "", sides, tuple(_OPERATOR.findall(plain)), tuple(found))


def worst(verdicts: Sequence[str]) -> str:
    """The verdict on several terms that must all hold."""
    return next(word for word in _WORST_FIRST if word in verdicts)


def judged(low: float, high: float, bounds: Sequence[tuple[str, float]], margin: float = 0.0) -> str:
    """`met`, `not met` or `open`: whether all, nothing or a part of the interval satisfies the bounds."""
    results = []
    for symbol, bound in bounds:
        slack = margin + 1e-9 * max(1.0, abs(bound))
        if symbol == "=":
            inside, outside = (
                abs(low - bound) <= slack >= abs(high - bound),
                high < bound - slack or low > bound + slack,
            )
        else:
            ends = (low, high) if symbol[0] == ">" else (-high, -low)
            limit = bound if symbol[0] == ">" else -bound
            or_equal = len(symbol) == 2
            inside = ends[0] > limit or (or_equal and ends[0] == limit)
            outside = ends[1] < limit or (not or_equal and ends[1] == limit)
        results.append("met" if inside else "not met" if outside else "open")
    return worst(results)


def beyond(low: float, high: float, null: float, *, upward: bool) -> str:
    """Whether an interval lies wholly on the claim's side of the null value."""
    if not (low > null or high < null):
        return "inconclusive"
    return "reproduced" if (low > null) == upward else "contradicted"


@dataclass(frozen=True)
class Answer:
    """What one source says about one term; a `shown` value decides nothing."""

    term: str
    number: str
    inference: str
    value: str = ""
    low: float | None = None
    high: float | None = None
    reason: str = ""
    evidence: tuple[str, ...] = ()
    shown: bool = False

    def valued(self, *, alone: bool) -> str:
        """The value; among others with its interval, which for two accuracies is that of their difference."""
        if alone or self.low is None or self.high is None:
            return self.value
        order = ", difference" if re.search(r" vs [\d.]+$", self.value) else ""
        return f"{self.value}{order} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Found:
    """A published number with its row; `off` says why it is not the number that the claim means."""

    value: float
    evidence: str
    off: str = ""
    n_images: int | None = None


Find = Callable[[Quantity], Found | None]


def answer(term: Term, find: Find, *, margin: float = 0.0, fixed: bool = True) -> Answer | None:
    """What published numbers say about a comparison; `fixed` numbers are no new trainings."""
    found = {one: find(one) for one in term.quantities}
    if any(one is None for one in found.values()):
        return None
    values = {quantity: one.value for quantity, one in found.items()}
    evidence = tuple(one.evidence for one in found.values())
    if off := next((one.off for one in found.values() if one.off), ""):
        rows = tuple(one.evidence for quantity, one in found.items() if not quantity.is_count)
        if len(set(rows)) < len(rows):
            return None
        value = term.shown(values)
        return Answer(term.text, "not tested", "not tested", value, reason=off, evidence=rows, shown=True)
    value, bounds = term.measured(values), term.bounds(values)
    if not all(one.name in ("top1", "miou") for one in term.quantities):
        number = judged(value, value, bounds)
        return Answer(term.text, number, "inconclusive", term.shown(values), None, None, "no interval was published",
                      evidence)  # fmt: skip
    if not (term.operator == "difference" or term.has_constant_bound):
        value, bounds = value - bounds[0][1], [(bounds[0][0], 0.0)]
    margin = margin if term.symbols[0] == "=" else 0.0
    half = 0.0 if fixed else SPREAD * math.sqrt(len(term.quantities))
    number = judged(value - half, value + half, bounds, margin)
    ends = _new_images(term, found)
    inference, reason = "inconclusive", "no interval was published"
    if not fixed:
        reason = "one training, judged with the 0.25 points by which retrainings scatter"
        reason += "; the interval is for new images" if ends else ""
    elif ends:
        inference, reason = _inferred(term, bounds[0], ends, margin), "the interval is for new images"
    low, high = ends or (None, None)
    return Answer(term.text, number, inference, term.shown(values), low, high, reason, evidence)


def _new_images(term: Term, found: dict[Quantity, Found]) -> tuple[float, float] | None:
    """Wilson's interval of a single accuracy whose number of images is known."""
    if [one.name for one in term.quantities] != ["top1"]:
        return None
    ((quantity, one),) = found.items()
    if one.n_images is None:
        return None
    low, high = wilson(round(one.value / 100 * one.n_images), one.n_images)
    return term.measured({quantity: low}), term.measured({quantity: high})


def _inferred(term: Term, bound: tuple[str, float], ends: tuple[float, float], margin: float) -> str:
    symbol, value = bound
    if symbol != "=":
        return beyond(*ends, value, upward=symbol[0] == ">")
    if term.operator == "difference" and value != 0:
        return beyond(*ends, 0.0, upward=value > 0)
    number = judged(*ends, [bound], margin)
    return {"met": "reproduced", "not met": "contradicted"}.get(number, "inconclusive")


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent."""
    z, share = 1.959963984540054, correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return 100 * (centre - half), 100 * (centre + half)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank."""

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
                for value in values]  # fmt: skip

    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


def ranked(points: Sequence[tuple[float, float, float]]) -> tuple[str, str]:
    """The verdict and the value of the ranking of (speed, FLOPs, Wino MULs)."""
    speeds, flops, wino = zip(*points, strict=True)
    by_flops, by_wino = spearman(speeds, flops), spearman(speeds, wino)
    return (
        "met" if by_wino < by_flops else "not met",
        f"Spearman {by_wino:.2f} (Wino MULs) vs {by_flops:.2f} (FLOPs)",
    )


NO_SAMPLE = "networks; they are no sample, so no interval is defined"


def row_of(claim: Row, answers: Sequence[Answer | None], n_terms: int, **cells: str) -> Row | None:
    """The ledger row of one claim and source, as text; None where the source has nothing to say."""
    told = [one for one in answers if one is not None]
    decided = [one for one in told if not one.shown]
    used = decided or told
    if not used:
        return None
    parts = [one.term for one in decided]
    part = "no part" if not decided else "whole claim" if len(decided) == n_terms else " and ".join(parts)
    low, high = next(((one.low, one.high) for one in used if one.low is not None), (None, None))
    row = dict.fromkeys(COLUMNS, "") | {
        "id": claim["id"],
        "part": part,
        "value": "; ".join(one.valued(alone=sum(bool(one.value) for one in used) == 1) for one in used if one.value),
        "low": "" if low is None else f"{low:.6g}",
        "high": "" if high is None else f"{high:.6g}",
        "verdict_number": worst([one.number for one in used]),
        "verdict_inference": worst([one.inference for one in used]),
        "reason": "; ".join(dict.fromkeys(one.reason for one in used if one.reason)),
        "evidence": "; ".join(dict.fromkeys(line for one in used for line in one.evidence)),
    }
    return row | cells
