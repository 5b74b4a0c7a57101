"""The points of the three pictures against the published rows, and what the committed files carry."""

import csv
import re
from pathlib import Path

import pytest

from repvgg_companion.evidence.accuracy_picture import (
    AUTHORS,
    OTHER_RECIPE,
    RELEASED,
    SAME_RECIPE,
    AccuracyPoint,
    accuracy_figure,
    accuracy_points,
)
from repvgg_companion.evidence.figure1_others import GAPS, caption, figure1_others, others_panels
from repvgg_companion.evidence.from_others import speed_tables
from repvgg_companion.evidence.picture_points import speed_up_points
from repvgg_companion.evidence.pictures import PICTURES, pictures
from repvgg_companion.evidence.sources import read_sources
from repvgg_companion.evidence.speedups_picture import (
    COMPILED,
    EAGER,
    HERE,
    PAIRS,
    TRAIN,
    SpeedUp,
    printed_ratio,
    speed_ups,
    speedups_caption,
    speedups_figure,
)
from repvgg_companion.evidence.third_party import read_accuracies, read_speeds
from repvgg_companion.paper.figure_style import STAR, STAR_WORDS, freeze_layout, style
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.rounding import truncated

ROOT = Path(__file__).parents[2]


def rows_of(name):
    with (ROOT / "paper" / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    return Results(tmp_path_factory.mktemp("nothing"))


@pytest.fixture(scope="module")
def tables(facts, nothing):
    return speed_tables(facts, nothing, read_speeds(ROOT / "paper"))


@pytest.fixture(scope="module")
def points(tables, nothing):
    return list(dict.fromkeys(speed_ups(tables, nothing)))


def test_the_printed_ratios_are_those_of_the_text(facts):
    printed = [truncated(printed_ratio(facts, pair), 2) for pair in PAIRS]
    assert printed == [1.33, 1.64, 1.83, 2.01, 2.66, 1.10, 1.59, 1.02, 1.31]


def test_every_published_ratio_is_drawn_once(points):
    rows = rows_of("third_party_speed.csv")
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
    for row in rows_of("timm_reference.csv"):
        if row["kind"].startswith("official"):
            point = timm.pop((row["model"], int(row["img_size_px"])))
            assert point.difference == pytest.approx(float(row["delta_top1_points"]), abs=1e-9)
            assert point.interval[0] < point.difference < point.interval[1]
    assert not timm
    assert all(point.interval is None for point in drawn if point.source.startswith("ZCls"))


def test_the_points_of_others_panels_are_the_published_rows(facts, tables):
    drawn = {}
    for panel in others_panels(facts, tables):
        key = (panel.device, panel.rows[0].backend)
        assert key not in drawn
        drawn[key] = {(point.model, point.epochs, point.speed, point.top1) for point in panel.points}
    figure, rows = rows_of("figure1_points.csv"), rows_of("third_party_speed.csv")
    expected = {}
    names = {"4090": "RTX 4090", "5090": "RTX 5090", "pro6000maxq": "RTX PRO 6000 Max-Q"}
    for row in rows:
        if row["source_file"].startswith("results/benchmark-infer-amp-nchw-pt291") and row["input_px"] == "224":
            mine = expected.setdefault((names[row["device"]], row["backend"]), set())
            for point in figure:
                if point["model"] == row["model"]:
                    numbers = (float(row["images_per_s"]), float(point["top1_pct"]))
                    mine.add((row["model"], int(point["epochs"]), *numbers))
    assert drawn == expected
    assert len(drawn) == 6 and {len(points) for points in drawn.values()} == {16}


def test_the_gaps_of_others_panels_are_those_of_the_published_rows(facts, tables):
    rows = rows_of("third_party_speed.csv")
    sizes = {row["input_px"] for row in rows if row["model"] == "EfficientNet-B3"}
    assert sizes == {"288", "320"} and "288 and 320 px" in GAPS["EfficientNet-B3"]
    assert set(GAPS) - {row["model"] for row in rows} == {"RepVGG-B1g2", "RepVGG-B2g2"}
    words = caption(others_panels(facts, tables), tables)
    assert all(name in words for name in GAPS)
    shown = {panel.device for panel in others_panels(facts, tables)}
    for name, device in (("rtx3090", "RTX 3090"), ("i9_10940x", "Core i9-10940X"), ("i7_12700h", "Core i7-12700H")):
        assert {row["form"] for row in rows if row["device"] == name} == {"train", "as built"}
        assert device not in shown and device in words.partition("No panel: ")[2].partition("train form only")[0]


def test_a_table_that_lacks_a_network_gets_no_panel(facts, nothing):
    rows = read_speeds(ROOT / "paper")
    fewer = [row for row in rows if (row.device, row.backend, row.model) != ("RTX 5090", "eager", "ResNet-50")]
    panels = others_panels(facts, speed_tables(facts, nothing, fewer))
    assert len(panels) == 5 and ("RTX 5090", "eager") not in {(one.device, one.rows[0].backend) for one in panels}
    only_train = [row for row in rows if row.form != "deploy"]
    assert others_panels(facts, speed_tables(facts, nothing, only_train)) == []


def test_others_panels_have_open_markers_and_readable_text(facts, tables):
    panels = others_panels(facts, tables)
    with style():
        figure = figure1_others(panels[:1], tables)
        axes, spare = figure.axes
        lines = [line for line in axes.lines if line.get_marker() not in (".", "None")]
        assert len(lines) == 7 and {line.get_markerfacecolor() for line in lines} == {"white"}
        dots = [line for line in axes.lines if line.get_marker() == "."]
        inside = {(float(x), float(y)) for line in dots for x, y in line.get_xydata()}
        assert inside == {(point.speed, point.top1) for point in panels[0].points if point.epochs == 200}
        texts = [text for text in figure.findobj(lambda one: hasattr(one, "get_fontsize")) if text.get_text()]
        assert len(texts) > 25 and min(text.get_fontsize() for text in texts) >= 7
        assert "measured by others (timm): RTX 4090, eager,\namp-fp16, batch 1024" in axes.get_title(loc="left")
        assert not spare.axison


def test_each_measured_device_has_a_marker_of_its_own_and_the_text_is_readable(facts):
    with style():
        ours = [SpeedUp(PAIRS[0], HERE, device, "fp32, eager", 1.4, (1.3, 1.5)) for device in ("cpu-a", "gpu-b")]
        figure = speedups_figure(facts, ours)
        (legend, _) = figure.legends
        pairs = zip(legend.get_texts(), legend.legend_handles, strict=True)
        found = {text.get_text().partition("\n")[2]: line.get_marker() for text, line in pairs}
        assert found["cpu-a"] != found["gpu-b"]
        points = [AccuracyPoint("RepVGG-A0", 224, SAME_RECIPE, "x", -2.9, None)]
        for one in (figure, accuracy_figure(points)):
            texts = [text for text in one.findobj(lambda part: hasattr(part, "get_fontsize")) if text.get_text()]
            assert len(texts) > 5 and min(text.get_fontsize() for text in texts) >= 7


def test_a_ratio_of_a_disturbed_speed_has_a_star_of_its_own_and_a_mark_in_the_csv(facts):
    sources = read_sources(ROOT / "paper", ROOT / "results" / "devices", ROOT / "results" / "studies")
    points = list(dict.fromkeys(speed_ups(sources.speeds, sources.devices)))
    marked = {one.x for one in speed_up_points(sources) if one.disturbed == "yes"}
    ledger = (ROOT / "results" / "reference" / "ledger.csv").read_text(encoding="utf-8")
    assert marked == {point.ratio for point in points if point.disturbed} and "disturbed" in ledger
    ours = [point for point in points if point.lane == HERE and point.pair == ("RepVGG-A2", "ResNet-50")]
    cpu = {f"{point.ratio:.2f}": point.disturbed for point in ours if point.device.startswith("cpu")}
    assert cpu == {"1.61": True, "1.34": True, "1.07": False, "0.99": True}
    with style():
        figure = speedups_figure(facts, points)
        freeze_layout(figure)
        (axes,) = figure.axes
        stars = [text for text in axes.texts if text.get_text() == STAR]
        assert sorted(star.xy[0] for star in stars) == sorted(marked) and len(stars) > 20
        drawn = {tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xydata()) == 1}
        assert {star.xy for star in stars} <= drawn, "each beside its own point"
        assert STAR_WORDS in {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        words = speedups_caption(points)
        assert "*: disturbed speed (busy" in words and "decides no claim" in words
        quiet = [SpeedUp(PAIRS[0], HERE, "cpu-a", "fp32, eager", 1.4, (1.3, 1.5), batch_size=1)]
        assert STAR not in speedups_caption(quiet)
        (legend, _) = speedups_figure(facts, quiet).legends
        assert STAR_WORDS not in {text.get_text() for text in legend.get_texts()}


def test_the_caption_of_the_speed_ups_says_what_the_points_of_a_device_are():
    points = [
        SpeedUp(PAIRS[place], HERE, "cpu-a", setting, 1.4, (1.3, 1.5), batch_size=batch)
        for place, setting, batch in (
            (0, "bf16, eager", 8), (1, "fp32, fused", 1), (2, "fp32, eager", 1), (2, "tf32, eager", 1),
        )
    ]  # fmt: skip
    settings = "cpu-a, batch 1 (A0 / ResNet-18: 8), bf16 (eager), fp32 (eager, fused) and tf32 (eager)"
    assert settings in speedups_caption(points)
    assert "from top to bottom: cpu-a" in speedups_caption(
        points
    ) and "Points below fp32 are lighter" in speedups_caption(points)
    assert "measured here" in speedups_caption([]) and "cpu-a" not in speedups_caption([])


def test_the_points_of_a_device_are_in_the_order_of_the_caption_and_lighter_below_fp32(facts):
    ratios = {"bf16, fused": 1.6, "fp32, fused": 1.2, "bf16, eager": 1.4, "fp32, eager": 1.5}
    points = [SpeedUp(PAIRS[0], HERE, "cpu-a", setting, ratio, (1, 2)) for setting, ratio in ratios.items()]
    with style():
        figure = speedups_figure(facts, points)
        (axes,) = figure.axes
        drawn = sorted(
            (line for line in axes.lines if len(line.get_xydata()) == 1), key=lambda line: line.get_ydata()[0]
        )
        assert [line.get_xdata()[0] for line in drawn] == [1.4, 1.6, 1.5, 1.2], "the axis runs from top to bottom"
        colours = [line.get_color() for line in drawn]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        (legend, _) = figure.legends
        assert "lighter: bf16 or tf32" in {text.get_text() for text in legend.get_texts()}
        (legend, _) = speedups_figure(facts, points[1::2]).legends
        assert "lighter: bf16 or tf32" not in {text.get_text() for text in legend.get_texts()}
        assert axes.yaxis_inverted()


@pytest.mark.parametrize("name", [*PICTURES, *(path.name for path in sorted((ROOT / "results" / "studies").glob("*")))])
def test_the_committed_files_carry_commit_and_data_digest(name):
    folder = ROOT / "paper_figures" / "reference"
    text = (folder / f"{name}.svg").read_text(encoding="utf-8")
    assert "commit " in text and "; data " in text
    caption = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert len(caption) > 120 and "\\includegraphics" in (folder / f"{name}.tex").read_text(encoding="utf-8")
    assert all(
        (ROOT / "paper_figures" / "reference" / f"{name}.{kind}").stat().st_size > 1000 for kind in ("pdf", "png")
    )


def test_no_legend_is_cut_off():
    sources = read_sources(ROOT / "paper", ROOT / "results" / "devices", ROOT / "results" / "studies")
    for name, picture in pictures(sources.studies).items():
        with style():
            figure = picture.draw(sources)
            freeze_layout(figure)
            for legend in figure.legends:
                box = legend.get_window_extent()
                assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1, name


def beside(name):
    with (ROOT / "paper_figures" / "reference" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_csv_beside_each_picture_follows_from_the_rows_that_it_names(facts, points):
    speeds, timm = rows_of("third_party_speed.csv"), rows_of("timm_reference.csv")
    published = {"third_party_accuracy.csv": rows_of("third_party_accuracy.csv"), "timm_reference.csv": timm}
    ratios = [row for row in beside("speedups") if row["source"].startswith("paper/third_party_speed.csv lines")]
    for row in ratios:
        first, second = (speeds[int(line) - 2] for line in re.findall(r"\d+", row["source"]))
        assert f"{first['model']} / {second['model']}" == row["panel"]
        assert float(row["x"]) == pytest.approx(float(first["images_per_s"]) / float(second["images_per_s"]), rel=1e-7)
    assert len(ratios) == len(points)
    printed = [row for row in beside("speedups") if row["series"] == "printed"]
    assert [float(row["x"]) for row in printed] == pytest.approx([printed_ratio(facts, pair) for pair in PAIRS])
    differences = beside("accuracy-holds")
    for row in differences:
        file, line = re.fullmatch(r"paper/(\S+) line (\d+)", row["source"]).groups()
        source = published[file][int(line) - 2]
        assert row["panel"].split(", ")[0] == source["model"]
        if source.get("delta_top1_points"):
            assert float(row["x"]) == pytest.approx(float(source["delta_top1_points"]), abs=1e-7)
    assert len(differences) == len(list(accuracy_points(facts, read_accuracies(ROOT / "paper"))))
    others = beside("figure1-others")
    for row in others:
        line = int(re.search(r"third_party_speed.csv line (\d+)", row["source"])[1])
        assert (speeds[line - 2]["model"], float(speeds[line - 2]["images_per_s"])) == (row["name"], float(row["x"]))
    assert len(others) == 6 * 16
