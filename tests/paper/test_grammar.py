"""The grammar of conditions: what it reads, what it refuses, how it evaluates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repvgg_companion.errors import CompanionError
from repvgg_companion.paper.grammar import Check, Quantity, parse
from repvgg_companion.paper.rounding import rounded, truncated

A, B = Quantity("top1", "RepVGG-A2", ("120-epochs",)), Quantity("top1", "ResNet-50", ("120-epochs",))


def only(condition):
    (term,) = parse(condition)
    return term


def test_a_difference_of_accuracies():
    term = only("top1(RepVGG-A2) - top1(ResNet-50) = 0.17 @120-epochs")
    assert set(term.quantities) == {A, B}
    assert term.is_difference and term.is_equality and term.bound_is_constant and not term.is_ratio
    assert term.value({A: 76.48, B: 76.31}) == pytest.approx(0.17)
    assert term.holds({A: 76.48, B: 76.31})
    assert not term.holds({A: 76.48, B: 76.25})
    assert term.holds({A: 76.48, B: 76.25}, tolerance=0.25)


def test_a_quantity_keeps_the_recipe_that_it_names():
    first, second = parse("top1(RepVGG-B3, 200-epochs) > 80 and top1(RepVGG-A0) > 70 @120-epochs")
    assert first.quantities[0].recipe == "200-epochs"
    assert second.quantities[0].recipe == "120-epochs"


def test_qualifiers():
    quantity = Quantity("top1", "RepVGG-D2se", ("320px", "retrained"))
    assert (quantity.input_px, quantity.origin, quantity.form) == (320, "retrained", "deploy")
    assert Quantity("speed", "RepVGG-B0", ("train",)).form == "train"


def test_a_band_measures_its_middle():
    term = only("3 <= density(3)/density(1) <= 5")
    three, one = Quantity("density", "3"), Quantity("density", "1")
    assert term.is_ratio
    assert [term.holds({three: value, one: 10.0}) for value in (29.9, 30, 50, 50.1)] == [False, True, True, False]


def test_truncation_inside_a_condition():
    term = only("trunc(100*(speed(RepVGG-A2)/speed(ResNet-50) - 1)) = 83")
    fast, slow = Quantity("speed", "RepVGG-A2"), Quantity("speed", "ResNet-50")
    assert term.holds({fast: 1322, slow: 719})  # 83.87 % rounds to 84
    assert not term.holds({fast: 1330, slow: 719})


def test_a_check_is_a_term():
    assert parse("check(plain-inference-body) and params(RepVGG-A0) < 9")[0] == Check("plain-inference-body")


@pytest.mark.parametrize(
    "condition",
    [
        "top1(RepVGG-A0)",
        "speed(RepVGG-A0) == 3 == 3 == 3 or 1",
        "__import__('os').system('true') = 0",
        "nonsense(RepVGG-A0) > 1",
        "params(RepVGG-A0) % 2 = 0",
        "params(RepVGG-A0).real > 1",
        "(lambda: 1)() = 1",
    ],
)
def test_what_is_no_condition_is_refused_in_one_sentence(condition):
    with pytest.raises(CompanionError, match="is not understood"):
        parse(condition)


@given(st.integers(-10_000_000, 10_000_000), st.integers(0, 4))
def test_truncated_never_moves_away_from_zero(thousandths, digits):
    value = thousandths / 1000
    cut = truncated(value, digits)
    assert abs(cut) <= abs(value) + 1e-8
    assert abs(value - cut) < 10.0**-digits


@given(st.integers(-10_000_000, 10_000_000), st.integers(0, 4))
def test_rounded_is_the_nearest(thousandths, digits):
    value = thousandths / 1000
    assert abs(value - rounded(value, digits)) <= 0.5 * 10.0**-digits + 1e-8


def test_the_printing_rules_on_values_of_the_paper():
    assert truncated(8_309_384 / 1e6, 2) == 8.30
    assert truncated(12_189_584 / 1e6, 2) == 12.18
    assert truncated(100 * (2442 / 1836.09 - 1)) == 33
    assert truncated(100 * 1.33) == 133  # 133.00000000000003 or 132.99999999999997, whatever the machine says
    assert rounded(0.7473, 1) == 0.7
    assert rounded(0.25, 1) == 0.3
