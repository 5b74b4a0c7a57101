"""In: a term of a claim and our readings. Out: its two verdicts with our value, its interval and the reason.

`number`: is the printed value or order met by our value? `inference`: would it hold for new images, new training seeds,
or beyond the noise of this device? A term of a claim that is contradicted contradicts the claim; one that could
not be tested leaves it untested; one that is open leaves it inconclusive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repvgg_companion.paper import mean_iou
from repvgg_companion.paper.comparable_runs import ComparableRun
from repvgg_companion.paper.grammar import EXACT, Comparison, NotAvailable, Quantity
from repvgg_companion.paper.inference import LEAST_SEEDS, Span, over_images, over_seeds
from repvgg_companion.paper.ours import Reading, Row, correct_images

REPRODUCED, CONTRADICTED, INCONCLUSIVE, NOT_TESTED = "reproduced", "contradicted", "inconclusive", "not tested"
VERDICTS = (REPRODUCED, CONTRADICTED, INCONCLUSIVE, NOT_TESTED)
_WORST_FIRST = (CONTRADICTED, NOT_TESTED, INCONCLUSIVE, REPRODUCED)


@dataclass(frozen=True)
class Finding:
    """What became of one term."""

    number: str
    inference: str
    value: str = ""
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    reason: str = ""
    evidence: tuple[str, ...] = ()


def joined(verdicts: Sequence[str]) -> str:
    """The verdict on a conjunction."""
    return next(verdict for verdict in _WORST_FIRST if verdict in verdicts)


def judge(
    term: Comparison,
    read: Callable[[Quantity], Reading],
    *,
    tolerances: tuple[float | None, float | None] = (None, None),
    speeds: ComparableRun | None = None,
) -> Finding:
    """Decide one comparison; `tolerances` are those for released and for retrained weights, in points."""
    try:
        readings = {quantity: read(quantity) for quantity in term.quantities}
    except NotAvailable as reason:
        return Finding(NOT_TESTED, NOT_TESTED, reason=str(reason))
    values = _compared(term, readings, speeds)
    tolerance = None
    if term.is_equality and any(quantity.name in ("top1", "miou") for quantity in term.quantities):
        tolerance = tolerances[0] if all(reading.released for reading in readings.values()) else tolerances[1]
    number = REPRODUCED if term.holds(values, tolerance or 0.0) else CONTRADICTED
    spans, reason = _spans(term, readings, speeds)
    evidence = tuple(line for reading in readings.values() for line in reading.evidence)
    if all(quantity.name in EXACT for quantity in term.quantities):
        return Finding(number, number, value_text(term, values), tolerance=tolerance, evidence=evidence)
    verdicts = [_inferred(term, values, span, tolerance) for span in spans]
    if reason:
        verdicts.append(INCONCLUSIVE if spans else NOT_TESTED)
    return Finding(
        number,
        joined(verdicts) if CONTRADICTED not in verdicts or not reason else INCONCLUSIVE,
        value_text(term, values),
        min((span.low for span in spans), default=None),
        max((span.high for span in spans), default=None),
        tolerance,
        "; ".join([*(f"{span.over} [{span.low:.4g}, {span.high:.4g}] {span.note}".strip() for span in spans),
                   *([reason] if reason else [])]),
        evidence,
    )  # fmt: skip


def _compared(
    term: Comparison, readings: dict[Quantity, Reading], speeds: ComparableRun | None
) -> dict[Quantity, float]:
    """The values that a term compares; two speeds stand in the ratio that was measured round by round.

    The medians of two networks that were timed minutes apart may have another ratio, because the clock has drifted; it
    then lies outside the interval of the real one. The second speed is the one of its row.
    """
    values = {quantity: reading.value for quantity, reading in readings.items()}
    measured = [quantity for quantity in term.quantities if quantity.name == "speed"]
    if speeds is not None and len(measured) == 2:
        top, bottom = measured
        try:
            values[top] = speeds.ratio(top, bottom).value * values[bottom]
        except NotAvailable:
            return values
    return values


def value_text(term: Comparison, values: dict[Quantity, float]) -> str:
    """Our value of the measured side; for an order of two quantities both of them."""
    value = term.value(values)
    if not (term.is_ratio or term.is_difference) and len(term.quantities) == 2:
        bound = term.bound(values)
        if all(quantity.name in EXACT for quantity in term.quantities):
            return f"{value:,.0f} vs {bound:,.0f}"
        return f"{value:.6g} vs {bound:.6g}"
    return f"{value:+.4g}" if term.is_difference else f"{value:.6g}"


def _spans(term: Comparison, readings: dict[Quantity, Reading], speeds: ComparableRun | None) -> tuple[list[Span], str]:
    """Intervals of the measured side less its null (differences), or of the ratio; and what could not be asked."""
    names = {quantity.name for quantity in term.quantities} - set(EXACT)
    if not names:
        return [], ""
    try:
        if names <= {"speed", "density"}:
            return [_ratio_span(term, readings, speeds)], ""
        if names in ({"top1"}, {"miou"}):
            return _accuracy_spans(term, readings)
    except NotAvailable as reason:
        return [], str(reason)
    return [], f"no interval is defined for {' and '.join(sorted(names))}"


def _ratio_span(term: Comparison, readings: dict[Quantity, Reading], speeds: ComparableRun | None) -> Span:
    """Interval of left / right for an order of two speeds, of the left side for a ratio.

    Every measured side of the ledger is a product of powers of two speeds and of exact counts, so the interval of the
    speeds' ratio, scaled by the counts, is the interval of the side.
    """
    measured = [quantity for quantity in term.quantities if quantity.name not in EXACT]
    if speeds is None or len(measured) != 2:
        raise NotAvailable("an interval needs exactly two speeds of one run")
    top, bottom = measured
    ratio = speeds.ratio(top, bottom)
    if not term.is_ratio:
        return Span("this device", ratio.low, ratio.high, "ratio")
    values = {quantity: reading.value for quantity, reading in readings.items()}
    value = term.value(values)
    scale = value / (values[top] / values[bottom])
    # Probe the direction: raising the first speed must raise the side.
    if term.value(values | {top: 2 * values[top]}) < value:
        raise NotAvailable("the ratio is written with its slower speed first")
    return Span("this device", ratio.low * scale, ratio.high * scale, "ratio")


def _accuracy_spans(term: Comparison, readings: dict[Quantity, Reading]) -> tuple[list[Span], str]:
    quantities = list(readings)
    zero = dict.fromkeys(quantities, 0.0)

    def side(values: dict[Quantity, float]) -> float:
        return term.value(values) - (0.0 if term.is_difference or term.bound_is_constant else term.bound(values))

    constant = side(zero)
    coefficients = [side(zero | {quantity: 1.0}) - constant for quantity in quantities]
    rows = [readings[quantity].rows for quantity in quantities]
    spans, reasons = [], []
    try:
        if quantities[0].name == "miou":
            spans.append(mean_iou.over_images(coefficients, rows))
        else:
            spans.append(_over_images(coefficients, rows))
    except NotAvailable as reason:
        reasons.append(f"new images: {reason}")
    if not all(reading.released for reading in readings.values()):
        seeds = over_seeds(coefficients, [readings[quantity].seeds for quantity in quantities])
        if seeds is None:
            fewest = min(len(readings[quantity].seeds) for quantity in quantities)
            reasons.append(f"new training seeds: {fewest} of at least {LEAST_SEEDS} seeds were trained")
        else:
            spans.append(seeds)
    shifted = [Span(span.over, span.low + constant, span.high + constant, span.note) for span in spans]
    return shifted, "; ".join(reasons)


def _over_images(coefficients: list[float], rows: list[tuple[Row, ...]]) -> Span:
    parts = [correct_images(part) for part in rows]
    if any(not (parts[0][1] == labels).all() for _, labels in parts[1:]):
        raise NotAvailable("the predictions belong to different images")
    return over_images(coefficients, [correct for correct, _ in parts])


def _inferred(term: Comparison, values: dict[Quantity, float], span: Span, tolerance: float | None) -> str:
    """Whether the interval lies wholly on the claim's side of the null: 1 for ratios, 0 for differences and orders.

    An equality with no null between (a single value, or "equal accuracy") asks that the interval lie within the
    tolerance of the printed value, and is contradicted where it lies outside.
    """
    symbol, _ = term.bounds[0]
    bound = term.bound(values)
    if len(term.bounds) == 2:
        return _beyond(span, 1.0, upward=True)
    if term.is_equality:
        if term.is_difference and bound != 0:
            return _beyond(span, 0.0, upward=bound > 0)
        centre = bound if term.bound_is_constant else 0.0
        margin = tolerance or 0.0
        if span.low >= centre - margin and span.high <= centre + margin:
            return REPRODUCED
        return CONTRADICTED if span.high < centre - margin or span.low > centre + margin else INCONCLUSIVE
    upward = symbol in (">", ">=")
    if term.is_ratio:
        # "at least 1.83 times as fast" is printed about one pair on one GPU: the inference is "faster at all".
        null = 1.0 if term.bound_is_constant else bound
        return _beyond(span, null, upward=upward)
    if span.note == "ratio":
        return _beyond(span, 1.0, upward=upward)
    return _beyond(span, bound if term.bound_is_constant else 0.0, upward=upward)


def _beyond(span: Span, null: float, *, upward: bool) -> str:
    low, high = (span.low, span.high) if upward else (2 * null - span.high, 2 * null - span.low)
    if low > null:
        return REPRODUCED
    return CONTRADICTED if high < null else INCONCLUSIVE
