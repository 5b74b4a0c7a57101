"""Intervals against independent oracles: scipy, statsmodels' formula, exact enumeration."""

import numpy as np
import pytest
from scipy import stats

from repvgg_companion.paper.grammar import NotAvailable
from repvgg_companion.paper.inference import mcnemar_p, over_images, over_seeds


def two_networks(n, both, only_first, only_second):
    first = np.zeros(n)
    second = np.zeros(n)
    first[: both + only_first] = 1
    second[:both] = 1
    second[both + only_first : both + only_first + only_second] = 1
    return first, second


def test_a_paired_difference_has_the_paired_standard_error():
    first, second = two_networks(50_000, 37_000, 1400, 1300)
    span = over_images([1, -1], [first, second])
    difference = first - second
    standard_error = 100 * difference.std() / np.sqrt(len(difference))
    centre = 100 * difference.mean()
    assert span.low == pytest.approx(centre - 1.96 * standard_error, abs=0.01)
    assert span.high == pytest.approx(centre + 1.96 * standard_error, abs=0.01)
    unpaired = 100 * np.sqrt(first.var() / 50_000 + second.var() / 50_000)
    assert span.high - span.low < 2 * 1.96 * unpaired * 0.6  # pairing is what makes it narrow
    assert "McNemar p" in span.note


def test_a_single_accuracy_agrees_with_the_normal_interval():
    correct = np.zeros(50_000)
    correct[:38_240] = 1
    span = over_images([1.0], [correct])
    half = 1.96 * 100 * np.sqrt(0.7648 * 0.2352 / 50_000)
    assert span.low == pytest.approx(76.48 - half, abs=0.02)
    assert span.high == pytest.approx(76.48 + half, abs=0.02)


def test_mcnemar_is_the_exact_binomial_test():
    # scipy 1.x has no McNemar; enumerate the two-sided exact test for 9 against 1 by hand: 2 * (C(10,0)+C(10,1))/2^10.
    assert mcnemar_p(9, 1) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_p(0, 0) == 1.0


def test_the_bootstrap_is_the_same_every_time():
    first, second = two_networks(1000, 700, 60, 40)
    assert over_images([1, -1], [first, second]) == over_images([1, -1], [first, second])


def test_different_numbers_of_images_are_refused():
    with pytest.raises(NotAvailable, match="different numbers"):
        over_images([1, -1], [np.ones(10), np.ones(11)])


def test_seeds_give_welchs_interval():
    first, second = [75.1, 75.3, 75.2, 75.05], [72.3, 72.6, 72.2]
    span = over_seeds([1, -1], [first, second])
    oracle = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (span.low, span.high) == pytest.approx((oracle.low, oracle.high))


def test_one_network_gives_the_t_interval():
    values = [75.1, 75.3, 75.2]
    span = over_seeds([1.0], [values])
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (span.low, span.high) == pytest.approx((low, high))


def test_two_seeds_say_nothing():
    assert over_seeds([1, -1], [[75.1, 75.3, 75.2], [72.3, 72.6]]) is None
