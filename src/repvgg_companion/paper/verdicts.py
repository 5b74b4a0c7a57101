"""The two verdicts on one term of a claim, with our value, its interval and the reason.

*Number*: is the printed value or order met? The 95 % interval of our value decides, by one rule for every kind of
claim: met if the whole interval satisfies the comparison, not met if none of it does, else open.
*Inference*: would it hold for new images, new training seeds, or beyond the noise of this device?

A claim has the worst verdict of its terms. Speeds that were disturbed by other processes, drift or spread decide
nothing: the number is open and the inference is inconclusive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from repvgg_companion.contract import INFERENCE_VERDICTS, NUMBER_VERDICTS, with_interval
from repvgg_companion.paper import mean_iou
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import ComparableRun
from repvgg_companion.paper.grammar import EXACT, Comparison, NotAvailable, Quantity
from repvgg_companion.paper.inference import LEAST_SEEDS, Span, over_images, over_seeds
from repvgg_companion.paper.ours import Reading, Row, correct_images

MET, NOT_MET, OPEN, NOT_TESTED = NUMBER_VERDICTS
DISTURBED_REASON = "the measurement was disturbed"
REPRODUCED, CONTRADICTED, _, INCONCLUSIVE, _ = INFERENCE_VERDICTS
_WORST_FIRST = (CONTRADICTED, NOT_MET, NOT_TESTED, OPEN, INCONCLUSIVE, MET, REPRODUCED)
SEED_SPREAD = 0.25
"""Points by which retrainings of others scatter; takes the place of an interval over fewer than three seeds."""


@dataclass(frozen=True)
class Finding:
    """The judgement of one term; `flags` are the disturbances of the speeds that it rests on."""

    number: str
    inference: str
    value: str = ""
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    reason: str = ""
    evidence: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def our_values(findings: Sequence[Finding]) -> str:
    """Our values of all terms; with several of them, each has its interval beside it."""
    valued = [finding for finding in findings if finding.value]
    if len(valued) == 1:
        return valued[0].value
    return "; ".join(with_interval(finding.value, finding.low, finding.high) for finding in valued)


def joined(verdicts: Sequence[str]) -> str:
    """The verdict on a conjunction."""
    return next(verdict for verdict in _WORST_FIRST if verdict in verdicts)


def number_verdict(low: float, high: float, bounds: Sequence[tuple[str, float]], tolerance: float | None = None) -> str:
    """Whether a value in [`low`, `high`] satisfies all `bounds`, each an operator and a number.

    `tolerance` widens an equality to a band around its number.
    """
    inside, outside = True, False
    for symbol, bound in bounds:
        margin = (tolerance or 0.0) + 1e-9 * max(1.0, abs(bound))
        if symbol == "=":
            inside &= bound - margin <= low and high <= bound + margin
            outside |= high < bound - margin or bound + margin < low
            continue
        # Turned around, "less" becomes "greater".
        least, most, limit = (low, high, bound) if symbol in (">", ">=") else (-high, -low, -bound)
        strict = symbol in (">", "<")
        inside &= least > limit if strict else least >= limit
        outside |= most <= limit if strict else most < limit
    return MET if inside else NOT_MET if outside else OPEN


def judge(
    term: Comparison, evidence: Evidence, tolerances: tuple[float | None, float | None] = (None, None)
) -> Finding:
    """Decide one comparison; `tolerances` are those for released and for retrained weights, in points."""
    try:
        readings = evidence.read_together(term.quantities)
    except NotAvailable as reason:
        return Finding(NOT_TESTED, NOT_TESTED, reason=str(reason))
    sources = tuple(line for reading in readings.values() for line in reading.evidence)
    values = {quantity: reading.value for quantity, reading in readings.items()}
    names = {quantity.name for quantity in term.quantities} - set(EXACT)
    try:
        if not names:
            return _judge_counts(term, values, sources)
        if names <= {"speed", "density"} and evidence.speeds is not None:
            return _judge_speeds(term, values, evidence.speeds, sources)
        if names in ({"top1"}, {"miou"}):
            return _judge_accuracies(term, readings, tolerances, sources)
        raise NotAvailable(f"no interval is defined for {' and '.join(sorted(names))}")
    except NotAvailable as reason:
        return Finding(OPEN, NOT_TESTED, value_text(term, values), reason=str(reason), evidence=sources)


def value_text(term: Comparison, values: Mapping[Quantity, float]) -> str:
    """Our value of the measured side; for an order of two quantities both of them."""
    value = term.value(values)
    exact = all(quantity.name in EXACT for quantity in term.quantities)
    if not (term.is_ratio or term.is_difference) and len(term.quantities) == 2:
        return f"{_digits(value, exact=exact)} vs {_digits(term.bound(values), exact=exact)}"
    return f"{value:+.4g}" if term.is_difference else _digits(value, exact=exact)


def _digits(value: float, *, exact: bool) -> str:
    """A whole count in full, anything else (a ratio, or a count printed in millions) to six digits."""
    return f"{value:,.0f}" if exact and value == round(value) else f"{value:.6g}"


def bounds_of(term: Comparison, values: Mapping[Quantity, float]) -> list[tuple[str, float]]:
    """Each operator of a comparison with the number on its other side."""
    return [(symbol, term.bound(values, place)) for place, (symbol, _) in enumerate(term.bounds)]


def _judge_counts(term: Comparison, values: dict[Quantity, float], sources: tuple[str, ...]) -> Finding:
    value = term.value(values)
    number = number_verdict(value, value, bounds_of(term, values))
    inference = REPRODUCED if number == MET else CONTRADICTED
    return Finding(number, inference, value_text(term, values), evidence=sources)


def _judge_speeds(
    term: Comparison, values: dict[Quantity, float], run: ComparableRun, sources: tuple[str, ...]
) -> Finding:
    """Judge a term of two speeds, or densities, of one run, and any counts.

    The measured side is compared by the ratio of the two speeds, because that was measured round by round: their
    medians, taken minutes apart, may have another ratio, since the clock drifts. Raises NotAvailable if the term does
    not have two speeds, the faster one first.
    """
    measured = [quantity for quantity in term.quantities if quantity.name not in EXACT]
    if len(measured) != 2:
        raise NotAvailable("an interval needs exactly two speeds of one run")
    top, bottom = measured
    ratio = run.ratio(top, bottom)
    table = values
    values = values | {top: ratio.value * values[bottom]}
    value = term.value(values)
    if term.value(values | {top: 2 * values[top]}) < value:
        raise NotAvailable("the ratio is written with its slower speed first")
    # An order of two speeds is judged as a ratio: A > B is A/B > 1.
    unit = 1.0 if term.is_ratio else values[bottom]
    scale = value / unit / ratio.value
    span = Span("this device", ratio.low * scale, ratio.high * scale, "ratio")
    bounds = [(symbol, bound / unit) for symbol, bound in bounds_of(term, values)]
    number = number_verdict(span.low, span.high, bounds)
    inference = _speed_inference(term, span, bounds)
    if inference == CONTRADICTED and not run.is_paper_setting:
        inference = NOT_MET  # the claim is about the paper's own device and batch
    reason = f"{span.over} [{span.low:.4g}, {span.high:.4g}] {span.note}"
    flags = run.disturbances(measured)
    if flags:
        number, inference = OPEN, INCONCLUSIVE
        reason = f"{DISTURBED_REASON} ({'; '.join(flags)}); {reason}"
    text = value_text(term, values)
    if not term.is_ratio:
        text = f"{value_text(term, table)}, paired ratio {value / unit:.4g}"
    return Finding(number, inference, text, span.low, span.high, None, reason, sources, flags)


def _speed_inference(term: Comparison, span: Span, bounds: list[tuple[str, float]]) -> str:
    """Whether the first speed is on the claim's side of the second one at all.

    "At least 1.83 times as fast" is printed about one pair on one GPU, so the inference is "faster".
    """
    symbol, bound = bounds[0]
    if len(bounds) == 2 or (term.is_ratio and term.bound_is_constant):
        bound = 1.0
    return _beyond(span, bound, upward=len(bounds) == 2 or symbol in (">", ">="))


def _judge_accuracies(
    term: Comparison,
    readings: dict[Quantity, Reading],
    tolerances: tuple[float | None, float | None],
    sources: tuple[str, ...],
) -> Finding:
    released = all(reading.released for reading in readings.values())
    tolerance = tolerances[0 if released else 1] if term.is_equality else None
    values = {quantity: reading.value for quantity, reading in readings.items()}
    constant, coefficients = linear_side(term, list(readings))
    spans, reasons = [], []
    try:
        rows = [reading.rows for reading in readings.values()]
        over = mean_iou.over_images if term.quantities[0].name == "miou" else over_same_images
        spans.append(over(coefficients, rows).moved(constant))
    except NotAvailable as reason:
        reasons.append(f"new images: {reason}")
    seeds = _over_seeds(coefficients, list(readings.values()))
    if seeds is None:
        fewest = min(len(reading.seeds) for reading in readings.values() if not reading.released)
        reasons.append(f"new training seeds: {fewest} of at least {LEAST_SEEDS} seeds were trained")
        retrained = [factor for factor, part in zip(coefficients, readings.values(), strict=True) if not part.released]
        half = SEED_SPREAD * sqrt(sum(factor**2 for factor in retrained))
        side = sum(factor * part.value for factor, part in zip(coefficients, readings.values(), strict=True))
        number_span = Span("", side - half, side + half).moved(constant)
        reasons.append(f"number judged with the {SEED_SPREAD} points by which others' retrainings scatter")
    else:
        number_span = seeds.moved(constant)
        if not released:
            spans.append(number_span)
    bounds = [(symbol, bound if keeps_bound(term) else 0.0) for symbol, bound in bounds_of(term, values)]
    verdicts = [accuracy_inference(term, bounds[0], span, tolerance) for span in spans]
    if len(spans) < (1 if released else 2):
        verdicts.append(INCONCLUSIVE if spans else NOT_TESTED)
    inference = joined(verdicts)
    if inference == CONTRADICTED and reasons:
        inference = INCONCLUSIVE
    told = [f"{span.over} [{span.low:.4g}, {span.high:.4g}] {span.note}".strip() for span in spans]
    return Finding(
        number_verdict(number_span.low, number_span.high, bounds, tolerance),
        inference,
        value_text(term, values),
        min((span.low for span in spans), default=None),
        max((span.high for span in spans), default=None),
        tolerance,
        "; ".join([*told, *reasons]),
        sources,
    )


def keeps_bound(term: Comparison) -> bool:
    """Whether the side is compared with the term's own bound; an order of accuracies is a difference against 0."""
    return term.is_difference or term.bound_is_constant


def linear_side(term: Comparison, quantities: list[Quantity]) -> tuple[float, list[float]]:
    """The compared side as a constant and one coefficient for each quantity."""
    zero = dict.fromkeys(quantities, 0.0)

    def side(values: dict[Quantity, float]) -> float:
        return term.value(values) - (0.0 if keeps_bound(term) else term.bound(values))

    constant = side(zero)
    return constant, [side(zero | {quantity: 1.0}) - constant for quantity in quantities]


def _over_seeds(coefficients: list[float], readings: list[Reading]) -> Span | None:
    """Interval over new trainings; released weights are one fixed training. None with fewer than three seeds."""
    pairs = list(zip(coefficients, readings, strict=True))
    fixed = sum(factor * reading.value for factor, reading in pairs if reading.released)
    trained = [(factor, reading.seeds) for factor, reading in pairs if not reading.released]
    if not trained:
        return Span("", fixed, fixed)
    span = over_seeds([factor for factor, _ in trained], [seeds for _, seeds in trained])
    return span and span.moved(fixed)


def over_same_images(coefficients: Sequence[float], rows: Sequence[Sequence[Row]]) -> Span:
    """Bootstrap interval, in points, of sum c_i top1_i for new images; `rows` holds the seeds of each network."""
    parts = [correct_images(part) for part in rows]
    if any(not np.array_equal(parts[0][1], labels) for _, labels in parts[1:]):
        raise NotAvailable("the predictions belong to different images")
    return over_images(coefficients, [correct for correct, _ in parts])


def accuracy_inference(term: Comparison, bound: tuple[str, float], span: Span, tolerance: float | None) -> str:
    """Whether the interval lies wholly on the claim's side of 0, or of a constant bound.

    An equality without a direction (a single value, or "equal accuracy") requires that the interval lie within the
    tolerance of the printed value, and is contradicted if it lies outside.
    """
    symbol, value = bound
    if not term.is_equality:
        return _beyond(span, value, upward=symbol in (">", ">="))
    if term.is_difference and value != 0:
        return _beyond(span, 0.0, upward=value > 0)
    number = number_verdict(span.low, span.high, [bound], tolerance)
    return {MET: REPRODUCED, NOT_MET: CONTRADICTED}.get(number, INCONCLUSIVE)


def _beyond(span: Span, null: float, *, upward: bool) -> str:
    low, high = (span.low, span.high) if upward else (2 * null - span.high, 2 * null - span.low)
    if low > null:
        return REPRODUCED
    return CONTRADICTED if high < null else INCONCLUSIVE
