"""The points of the two pictures against the published rows, and what the committed files carry."""

import csv
from pathlib import Path

import pytest

from repvgg_companion.evidence.accuracy_picture import AUTHORS, OTHER_RECIPE, RELEASED, SAME_RECIPE, accuracy_points
from repvgg_companion.evidence.from_others import speed_tables
from repvgg_companion.evidence.pictures import TITLES
from repvgg_companion.evidence.speedups_picture import COMPILED, EAGER, PAIRS, TRAIN, printed_ratio, speed_ups
from repvgg_companion.evidence.third_party import read_accuracies, read_speeds
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.rounding import truncated

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def points(facts, tmp_path_factory):
    nothing = Results(tmp_path_factory.mktemp("nothing"))
    return list(dict.fromkeys(speed_ups(speed_tables(facts, nothing, read_speeds(ROOT / "paper")), nothing)))


def test_the_printed_ratios_are_those_of_the_text(facts):
    printed = [truncated(printed_ratio(facts, pair), 2) for pair in PAIRS]
    assert printed == [1.33, 1.64, 1.83, 2.01, 2.66, 1.10, 1.59, 1.02, 1.31]


def test_every_published_ratio_is_drawn_once(points):
    with (ROOT / "paper" / "third_party_speed.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = []
    for top, bottom in PAIRS:
        for source in {row["source_file"] for row in rows}:
            speeds = {row["model"]: float(row["images_per_s"]) for row in rows if row["source_file"] == source}
            if top in speeds and bottom in speeds:
                expected.append(speeds[top] / speeds[bottom])
    assert sorted(point.ratio for point in points) == pytest.approx(sorted(expected))


@pytest.mark.parametrize(
    ("pair", "lane", "low", "high"),
    [
        (PAIRS[0], EAGER, 1.46, 1.50), (PAIRS[0], TRAIN, 0.78, 1.00), (PAIRS[2], COMPILED, 1.42, 1.68),
        (PAIRS[2], EAGER, 1.95, 2.02), (PAIRS[2], TRAIN, 0.77, 1.25), (PAIRS[6], COMPILED, 0.97, 1.21),
        (PAIRS[6], EAGER, 0.93, 1.07),
    ],
)  # fmt: skip
def test_the_ranges_of_others_speed_ups(points, pair, lane, low, high):
    ratios = [point.ratio for point in points if (point.pair, point.lane) == (pair, lane)]
    assert min(ratios) == pytest.approx(low, abs=0.012) and max(ratios) == pytest.approx(high, abs=0.012)


def test_accuracies_are_compared_with_the_print_of_their_own_recipe(facts):
    drawn = list(accuracy_points(facts, read_accuracies(ROOT / "paper")))
    assert {point.kind for point in drawn} == {RELEASED, SAME_RECIPE, OTHER_RECIPE, AUTHORS}
    timm = {(point.model, point.input_px): point for point in drawn if point.source.startswith("timm")}
    with (ROOT / "paper" / "timm_reference.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["kind"].startswith("official"):
                point = timm.pop((row["model"], int(row["img_size_px"])))
                assert point.difference == pytest.approx(float(row["delta_top1_points"]), abs=1e-9)
                assert point.interval[0] < point.difference < point.interval[1]
    assert not timm
    assert all(point.interval is None for point in drawn if point.source.startswith("ZCls"))


@pytest.mark.parametrize("name", list(TITLES))
def test_the_committed_files_carry_commit_and_data_digest(name):
    text = (ROOT / "paper_figures" / "reference" / f"{name}.svg").read_text(encoding="utf-8")
    assert "commit " in text and "; data " in text
    assert all(
        (ROOT / "paper_figures" / "reference" / f"{name}.{kind}").stat().st_size > 1000 for kind in ("pdf", "png")
    )
