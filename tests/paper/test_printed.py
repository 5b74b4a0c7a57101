"""The paper's facts against themselves: every printed claim follows from the printed tables."""

import csv

import pytest
from paper_synthetic import PAPER

from repvgg_companion.errors import CompanionError
from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.claims import KINDS
from repvgg_companion.paper.grammar import EXACT, Check, NotAvailable, Quantity, parse
from repvgg_companion.paper.named_checks import CHECKS
from repvgg_companion.paper.printed import FILES, Facts
from repvgg_companion.paper.rounding import truncated

CLAIMS = list(csv.DictReader((PAPER / "claims.csv").open(encoding="utf-8")))
# Terms about counts that no table of the paper prints.
NOT_PRINTED = {"C17", "C18", "C44", "C52"}


def test_the_ledger_holds_every_claim():
    expected = [f"C{number:02d}" for number in range(1, 54)] + ["P01", "P02", "P03"]
    assert [claim["id"] for claim in CLAIMS] == expected
    assert {claim["kind"] for claim in CLAIMS} == set(KINDS)


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim["id"] for claim in CLAIMS])
def test_a_claim_holds_on_the_printed_numbers(facts, claim):
    compared = 0
    for term in parse(claim["condition_on_printed_numbers"] or claim["condition"]):
        if isinstance(term, Check):
            assert term.name in CHECKS
            continue
        try:
            values = {quantity: facts.printed(quantity) for quantity in term.quantities}
        except NotAvailable:
            assert claim["id"] in NOT_PRINTED, f"{claim['id']}: {term} is not printed"
            continue
        assert term.holds(values), f"{term}: {term.value(values)}"
        compared += 1
    assert compared or claim["id"] in NOT_PRINTED or "check(" in claim["condition"]


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim["id"] for claim in CLAIMS])
def test_a_changed_print_breaks_its_claim(facts, claim):
    """Each term turns where the printed value is moved beyond what rounding and truncation hide."""
    for term in parse(claim["condition_on_printed_numbers"] or claim["condition"]):
        if isinstance(term, Check) or all(quantity.name in EXACT for quantity in term.quantities):
            continue
        try:
            values = {quantity: facts.printed(quantity) for quantity in term.quantities}
        except NotAvailable:
            continue
        first = term.quantities[0]
        moved = [term.holds(values | {first: values[first] * factor}) for factor in (0.3, 3.0)]
        assert not all(moved), f"{term} holds whatever {first} is"


def test_every_model_of_the_facts_can_be_built_by_name(facts):
    tables = ("table3", "table4", "table5", "table6", "table7", "table8", "figure1")
    names = {row["model"] for table in tables for row in facts.table(table)}
    assert names <= set(MODELS)
    outside = {q.subject for claim in CLAIMS for term in parse(claim["condition"]) for q in term.quantities
               if q.name != "density" and q.subject not in MODELS}  # fmt: skip
    assert outside == {"RepVGGplus-L2pse"}


def test_figure_1_is_table_4_and_5_but_for_one_point(facts):
    odd = []
    for point in facts.table("figure1"):
        recipe = f"{point['epochs']}-epochs"
        try:
            same = (
                facts.printed(Quantity("speed", point["model"])) == point["speed_examples_per_s"]
                and facts.printed(Quantity("top1", point["model"], (recipe,))) == point["top1_pct"]
            )
        except NotAvailable:
            same = False
        if not same:
            odd.append((point["model"], point["speed_examples_per_s"], point["top1_pct"]))
    assert odd == [("RepVGG-B2g2", 530, 78.76)]


def test_printed_percentages_are_truncated(facts):
    """Where truncation and rounding differ the paper truncates (A2, B1g4, A1, B2, 62 % of Table 8)."""
    for fast, slow, printed in (
        ("RepVGG-A2", "ResNet-50", 83), ("RepVGG-B1g4", "ResNet-101", 101), ("RepVGG-A1", "ResNet-34", 64),
        ("RepVGG-B2", "VGG-16", 10), ("PSPNet-RepVGG-B1g2_fast", "PSPNet-ResNet-101", 62),
    ):  # fmt: skip
        gain = 100 * (facts.printed(Quantity("speed", fast)) / facts.printed(Quantity("speed", slow)) - 1)
        assert truncated(gain) == printed
        assert round(gain) == printed + 1


def test_a_missing_folder_names_the_option(tmp_path):
    with pytest.raises(CompanionError, match="--paper"):
        Facts(tmp_path).table("table4")


def test_all_files_are_read(facts):
    for name in FILES:
        assert facts.table(name)
