"""Statistics of times: medians, bootstrap intervals, and ratios with intervals.

No torch and no files. Every number is a pure function of the samples and of a fixed seed, so that a reader derives the
published rows again from the raw samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from repvgg_companion.errors import CompanionError

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 20210111
LEAST_FOR_BOOTSTRAP = 6
"""With fewer samples even the whole range covers the median with a probability below 95 %."""


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval and the number of samples it rests on."""

    value: float
    low: float
    high: float
    n: int


@cache
def tail(n: int) -> float:
    """The tail probability of an expanded percentile interval for `n` samples.

    The plain percentile interval is too narrow for few samples; the expanded one has the width of a t interval
    (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 5.3): for n = 20, 1.6 % in place of
    2.5 %.
    """
    from scipy import stats

    if n < 2:
        return 0.0
    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, n - 1) * np.sqrt(n / (n - 1))
    return float(stats.norm.cdf(quantile))


def median_interval(samples: Sequence[float], *, strata: Sequence[int] | None = None) -> Interval:
    """Median of `samples` with its bootstrap 95 % interval; with fewer than six samples Student's t of the logarithms.

    `strata` (one label a sample, such as the process start) keeps the resamples balanced over the labels. Raises
    CompanionError where there are no samples or one is not a positive finite number.
    """
    values = _checked(samples)
    if 1 < len(values) < LEAST_FOR_BOOTSTRAP:
        return _of_few(values)
    medians = np.median(_resamples(values, strata), axis=1)
    alpha = tail(len(values))
    low, high = np.quantile(medians, [alpha, 1 - alpha])
    return Interval(float(np.median(values)), float(low), float(high), len(values))


def _of_few(values: np.ndarray) -> Interval:
    """The median and, around it, the half width of Student's interval of the mean logarithm."""
    from scipy import stats

    logs = np.log(values)
    width = stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    middle = float(np.median(values))
    return Interval(middle, float(middle * np.exp(-width)), float(middle * np.exp(width)), len(values))


def rate_interval(samples: Sequence[float], examples: int, *, strata: Sequence[int] | None = None) -> Interval:
    """Examples per second from seconds per batch of `examples`: the reciprocal of the median time with its interval."""
    time = median_interval(samples, strata=strata)
    return Interval(examples / time.value, examples / time.high, examples / time.low, time.n)


def speed_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, strata: Sequence[int] | None = None
) -> Interval:
    """How many times as fast the first network is, from seconds measured in the same rounds, in the same order.

    The median over rounds of denominator time / numerator time with its bootstrap interval: what slows a whole round
    down (a busy machine, a lower clock) hits both and cancels. Raises CompanionError if the lengths differ.
    """
    if len(numerator) != len(denominator):
        raise CompanionError(
            f"a ratio needs samples of the same rounds, but there are {len(numerator)} and {len(denominator)}; "
            "measure both networks in one group"
        )
    ratios = _checked(denominator) / _checked(numerator)
    return median_interval(ratios, strata=strata)


def chained_ratio(first: Interval, second: Interval) -> Interval:
    """The quotient of two ratios to the same anchor (in two groups of one run), relative errors added in quadrature."""
    value = first.value / second.value
    down = np.hypot(np.log(first.value / first.low), np.log(second.high / second.value))
    up = np.hypot(np.log(first.high / first.value), np.log(second.value / second.low))
    return Interval(value, float(value * np.exp(-down)), float(value * np.exp(up)), min(first.n, second.n))


def percentiles(samples: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 10th and the 90th percentile of positive samples, in their unit."""
    low, high = np.quantile(_checked(samples), [0.1, 0.9])
    return float(low), float(high)


def spread_pct(samples: Sequence[float]) -> float:
    """(p90 - p10) / median in percent."""
    low, high = percentiles(samples)
    return float(100 * (high - low) / np.median(samples))


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Median, p10, p90 and mean in seconds, for the run's JSON file."""
    values = _checked(samples)
    low, high = percentiles(values)
    return {"median_s": float(np.median(values)), "p10_s": low, "p90_s": high, "mean_s": float(values.mean())}


def _checked(samples: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(samples, dtype=np.float64)
    if not len(values) or not np.all(np.isfinite(values)) or values.min() <= 0:
        raise CompanionError("times must be positive finite numbers, at least one; measure again")
    return values


def _resamples(values: np.ndarray, strata: Sequence[int] | None) -> np.ndarray:
    generator = np.random.default_rng(SEED)
    labels = np.zeros(len(values), int) if strata is None else np.asarray(strata)
    parts = []
    for label in np.unique(labels):
        members = values[labels == label]
        parts.append(members[generator.integers(0, len(members), (RESAMPLES, len(members)))])
    return np.concatenate(parts, axis=1)
