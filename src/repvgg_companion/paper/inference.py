"""The 95 % interval of a linear combination of accuracies, over new images or over new training seeds.

A comparison of accuracies is a sum of c_i times top1_i. New images: the images are resampled, the same ones for every
network. New seeds: Welch's t interval over the trainings, which are independent of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repvgg_companion.evaluation.accuracy import wilson_interval_pct
from repvgg_companion.paper.grammar import NotAvailable

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEAST_SEEDS = 3
MOST_SEEDS = 1000
SEED = 20210111  # the day of the paper's first version; fixed, so that a ledger is the same every time


@dataclass(frozen=True)
class Span:
    """A 95 % interval in points, and over what it generalises."""

    over: str
    low: float
    high: float
    note: str = ""

    def moved(self, by: float) -> "Span":
        """The interval of the value plus a constant."""
        return replace(self, low=self.low + by, high=self.high + by)


def over_images(coefficients: Sequence[float], correct: Sequence[np.ndarray]) -> Span:
    """Bootstrap interval, in points, of sum c_i top1_i for new images; `correct` holds one [n] array a network.

    Images are resampled together, so the comparison is paired. For one network less another of one seed each the
    exact McNemar p value is in the note. Where every image has the same value, resampling says nothing: then Wilson's
    upper limit for none of n bounds how many new images could have another one. For two networks without a discordant
    pair this is Tango's score interval.
    """
    if len({len(part) for part in correct}) != 1:
        raise NotAvailable("the predictions belong to different numbers of images")
    per_image = sum(factor * part for factor, part in zip(coefficients, correct, strict=True))
    values, counts = np.unique(np.round(per_image, 9), return_counts=True)
    n = int(counts.sum())
    draws = np.random.default_rng(SEED).multinomial(n, counts / n, size=RESAMPLES)
    low, high = 100 * np.quantile(draws @ values / n, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    note = ""
    if len(values) == 1:
        share = wilson_interval_pct(0, n)[1] / 100
        least, most = sum(min(factor, 0) for factor in coefficients), sum(max(factor, 0) for factor in coefficients)
        low, high = (100 * (values[0] + share * (end - values[0])) for end in (least, most))
    if sorted(coefficients) == [-1, 1] and set(values) <= {-1.0, 0.0, 1.0}:
        note = f"McNemar p {mcnemar_p(int(counts[values == 1].sum()), int(counts[values == -1].sum())):.2g}"
    return Span("new images", float(low), float(high), note)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p value from the images that only one of two networks gets right."""
    from scipy.stats import binomtest

    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


@dataclass(frozen=True)
class Welch:
    """A linear combination of means of trainings: its value, its standard error in points, its degrees of freedom."""

    centre: float
    error: float
    freedom: float

    @property
    def span(self) -> Span:
        """The 95 % t interval."""
        half = half_width(self.error, self.freedom)
        return Span("new training seeds", self.centre - half, self.centre + half)

    @property
    def p_value(self) -> float:
        """The two-sided p value of the value 0."""
        from scipy import stats

        if self.error == 0:
            return float(self.centre == 0)
        return float(2 * stats.t.sf(abs(self.centre) / self.error, self.freedom))


def half_width(error: float, freedom: float, confidence: float = CONFIDENCE) -> float:
    """Half the t interval of a standard error."""
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, freedom) * error) if error else 0.0


def welch(coefficients: Sequence[float], seeds: Sequence[Sequence[float]]) -> Welch | None:
    """Welch's statistics of sum c_i mean(top1_i), one list of trainings a network; None below 3 seeds of any."""
    if min(len(values) for values in seeds) < LEAST_SEEDS:
        return None
    parts = [
        (factor**2 * float(np.var(values, ddof=1)) / len(values), len(values) - 1)
        for factor, values in zip(coefficients, seeds, strict=True)
    ]
    centre = sum(factor * float(np.mean(values)) for factor, values in zip(coefficients, seeds, strict=True))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts) if variance else 1.0
    return Welch(centre, float(np.sqrt(variance)), freedom)


def over_seeds(coefficients: Sequence[float], seeds: Sequence[Sequence[float]]) -> Span | None:
    """Welch's t interval, in points, of sum c_i mean(top1_i) for new training seeds; None below 3 seeds of any."""
    found = welch(coefficients, seeds)
    return None if found is None else found.span


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected together by Holm's method, in the given order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def seeds_to_resolve(
    difference: float, one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE
) -> int | None:
    """The least number of seeds of each network whose interval would leave out 0; None above `MOST_SEEDS`.

    It uses the difference and the spreads that were seen, so it is a guess.
    """
    variances = [float(np.var(values, ddof=1)) for values in (one, other)]
    total = sum(variances)
    for n in range(LEAST_SEEDS, MOST_SEEDS + 1):
        freedom = (n - 1) * total**2 / sum(part**2 for part in variances) if total else 1.0
        if half_width(float(np.sqrt(total / n)), freedom, confidence) < abs(difference):
            return n
    return None
