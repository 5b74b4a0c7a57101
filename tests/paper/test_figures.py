"""The seven figures: three formats, the same bytes each time, provenance inside, demo data marked, the paper's axes."""

import csv
import io
import math
import re

import pytest
from paper_synthetic import CPU, PAPER

from repvgg_companion.__main__ import main
from repvgg_companion.paper import figure_style, figures
from repvgg_companion.paper.accuracies import other_accuracies
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import widest
from repvgg_companion.paper.figure_scatter import figure1, figure1_panels, our_panels, panel_figure
from repvgg_companion.paper.figure_style import SERIES, style
from repvgg_companion.paper.figure_training import trainings
from repvgg_companion.paper.named_checks import block_maps, proxies
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import FILES
from repvgg_companion.runs import commit

NAMES = ("figure1", "figure3", "table1", "branches", "proxies", "roofline", "training")


KINDS = ("pdf", "svg", "png", "csv", "md", "tex")


def coordinates(figure):
    """Every number that a figure draws: ends of bars, points and lines, each panel's points as pairs too."""
    numbers, pairs = set(), set()
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_transform() != axes.transData:
                continue
            xy = [(float(x), float(y)) for x, y in line.get_xydata()]
            numbers |= {value for pair in xy for value in pair}
            pairs |= set(xy) if line.get_marker() not in ("", "None", None) else set()
        for bar in axes.patches:
            numbers |= {bar.get_width(), bar.get_height()} if hasattr(bar, "get_width") else set()
        for lines in axes.collections:
            if hasattr(lines, "get_segments"):
                numbers |= {float(value) for segment in lines.get_segments() for value in segment.ravel()}
    return {f"{value:.6g}" for value in numbers}, {(f"{x:.6g}", f"{y:.6g}") for x, y in pairs}


def drawn(folder, output, *names):
    arguments = ["--experiment", "demo", "--results", str(folder), "--paper", str(PAPER), "--output", str(output)]
    assert main(["figures", *arguments, *(["--only", *names] if names else [])]) == 0
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.*"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory, facts):
    from paper_synthetic import write_demo

    folder = tmp_path_factory.mktemp("results")
    demo = write_demo(folder / "demo", facts)
    seen, beyond = {}, {}

    def save(figure, stem, *words):
        seen[stem.name] = coordinates(figure)
        figure_style.freeze_layout(figure)
        beyond[stem.name] = cut_off(figure)
        figure_style.save(figure, stem, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", save)
        return drawn(demo, folder / "figures"), demo, seen, beyond


def test_panels_are_placed_to_six_digits():
    import matplotlib.pyplot as plt

    with figure_style.style():
        figure, _ = plt.subplots(3, 1)
        figure_style.freeze_layout(figure)
        places = [value for axes in figure.axes for value in axes.get_position().bounds]
        assert len(places) == 12 and all(abs(value - round(value, 6)) < 1e-12 for value in places)


def test_all_figures_in_all_formats(made):
    panels = [f"panels/figure1-{letter}.{kind}" for letter in "abcd" for kind in KINDS if kind != "csv"]
    assert sorted(made[0]) == sorted(
        [*panels, "references.bib", *(f"{name}.{kind}" for name in NAMES for kind in KINDS)]
    )


def texts(svg):
    """The size in points of every text of an SVG."""
    return [float(size) for size in re.findall(rb"font(?:-size)?: (?:[a-z]+ )*([0-9.]+)px", svg)]


@pytest.mark.parametrize("name", [*NAMES, *(f"panels/figure1-{letter}" for letter in "abcd")])
def test_no_text_is_smaller_than_7_points_in_a_column(made, name):
    sizes = texts(made[0][f"{name}.svg"])
    assert sizes and min(sizes) >= 6.99


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_says_unit_device_precision_batch_input_and_samples(made, name):
    words = made[0][f"{name}.md"].decode()
    assert "no result of the paper" in words
    needed = {
        "figure1": ("%", "examples/s", CPU, "fp32, eager, batch 1, 224 px, 20 samples", "; recipe: demo-5-epochs"),
        "figure3": ("MiB", CPU, "fp32, eager, batch 1, 224 px", "one pass each", "ResNet-18 and RepVGG-A0"),
        "table1": ("TFLOPS", CPU, "fp32, eager, smaller shape: 256 channels, batch 4, 56 px, 20 samples"),
        "branches": ("(%)", "demo-digits, width 0.25, 10 classes, 32 px", "deploy form, 297 images", "3 seeds"),
        "proxies": ("examples/s", CPU, "fp32, eager, batch 1, 224 px, 20 samples"),
        "roofline": ("no ceilings were measured",),
        "training": ("demo-digits", "demo-5-epochs", "%"),
    }
    assert all(part in words for part in needed[name]), words
    latex = made[0][f"{name}.tex"].decode()
    assert (
        f"\\label{{fig:repvgg-demo-{name}}}" in latex and f"]{{{name}}}" in latex and "no result of the paper" in latex
    )
    assert commit() in made[0]["references.bib"].decode() and b"{ding2021repvgg," in made[0]["references.bib"]


@pytest.mark.parametrize("name", NAMES)
def test_the_csv_beside_a_figure_holds_the_points_that_are_drawn(made, name):
    files, _, seen, _ = made
    rows = list(csv.DictReader(io.StringIO(files[f"{name}.csv"].decode())))
    numbers, pairs = seen[name]
    assert rows or name == "roofline", "no ceilings were planted"
    for row in rows:
        assert row["source"] and row["panel"] and row["name"]
        for column in ("x", "y", *(("x_low", "x_high", "y_low", "y_high") if name == "figure1" else ())):
            assert not row[column] or f"{float(row[column]):.6g}" in numbers, (row, column)
    if name in ("figure1", "proxies", "training"):
        assert {(f"{float(row['x']):.6g}", f"{float(row['y']):.6g}") for row in rows} == pairs


def test_the_csv_beside_a_figure_marks_what_has_a_star(facts):
    from repvgg_companion.paper.comparable_runs import disturbing_flags
    from repvgg_companion.paper.figure_points import POINTS

    evidence = Evidence.shown(facts, Results(PAPER.parent / "results" / "devices"))
    flagged = {
        (row["run_id"], row["model"]) for row in evidence.results.rows("speed") if disturbing_flags(row)
    }  # fmt: skip
    for name in ("figure1", "proxies", "roofline"):
        found = list(POINTS[name](evidence, None))
        marked = {(one.source.split(" ")[1], one.name) for one in found if one.disturbed == "yes"}
        assert marked and marked <= flagged and {one.disturbed for one in found} == {"yes", ""}, name


def test_the_sources_in_the_csv_name_the_rows(made, facts):
    files, demo, *_ = made
    rows = list(csv.DictReader(io.StringIO(files["figure1.csv"].decode())))
    speeds = {(row["run_id"], row["model"], row["form"]): row["examples_per_s"] for row in Results(demo).rows("speed")}
    tables = {file: facts.table(name) for name, file in FILES.items() if name in ("figure1", "table4", "table5")}
    checked = set()
    for row in rows:
        for source in row["source"].split("; "):
            table, *words = source.split(" ")
            if table == "speed.csv":
                assert float(row["x"]) == pytest.approx(speeds[tuple(words[:3])], rel=1e-7)
            elif table.startswith("paper/"):
                fact = tables[table.removeprefix("paper/")][int(words[1]) - 1]
                assert (fact["model"], fact["top1_pct"]) == (row["name"], float(row["y"]))
            checked.add(table)
    assert {"speed.csv", "accuracy.csv", "paper/figure1_points.csv", "paper/table4_120epochs.csv"} <= checked


def test_the_same_data_gives_the_same_bytes(made, tmp_path, facts):
    first, demo, *_ = made
    second = drawn(demo, tmp_path / "again", "branches", "table1")
    assert len(second) == 13
    assert [name for name in second if first[name] != second[name]] == []
    evidence = Evidence.shown(facts, Results(demo))
    panel = figure1_panels(evidence)[1]  # the one with the fewest labels
    with style():
        words = (f"{panel.title}; experiment demo", commit(), figures.data_digest(facts, evidence.results))
        figure_style.save(panel_figure(panel), tmp_path / "figure1-b", *words)
    for kind in figure_style.FORMATS:
        assert (tmp_path / f"figure1-b.{kind}").read_bytes() == first[f"panels/figure1-b.{kind}"]


def test_formats_and_width(made):
    from io import BytesIO

    from PIL import Image

    first, *_ = made
    for name in (*NAMES, "panels/figure1-d"):
        assert first[f"{name}.pdf"].startswith(b"%PDF")
        assert b"/Type3" not in first[f"{name}.pdf"]
        width = re.search(rb'<svg[^>]* width="([0-9.]+)pt"', first[f"{name}.svg"])
        assert float(width.group(1)) == pytest.approx(3.3 * 72, abs=0.5)  # one column
        assert Image.open(BytesIO(first[f"{name}.png"])).width == 990


def test_commit_and_data_digest_are_inside(made):
    from io import BytesIO

    from PIL import Image

    first, *_ = made
    for name in NAMES:
        described = Image.open(BytesIO(first[f"{name}.png"])).text["Description"]
        assert re.fullmatch(rf"commit {re.escape(commit())}; data [0-9a-f]{{8}}", described)
        assert described.encode() in first[f"{name}.svg"]
        assert described.encode() in first[f"{name}.pdf"]
        assert b"CreationDate" not in first[f"{name}.pdf"] and b"<dc:date>" not in first[f"{name}.svg"]


def test_other_data_gives_another_digest(made, tmp_path):
    import shutil

    from paper_synthetic import plant

    first, demo, *_ = made
    shutil.copytree(demo.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("predictions", "figures"))
    plant(tmp_path / "copy" / "demo", "speed", {"examples_per_s": 108.0}, model="RepVGG-A0", form="deploy")
    other = drawn(tmp_path / "copy" / "demo", tmp_path / "figures", "table1")
    digest = [re.search(rb"data ([0-9a-f]{8})", part["table1.svg"]).group(1) for part in (first, other)]
    assert digest[0] != digest[1]
    assert first["table1.png"] != other["table1.png"]  # its metadata alone


def test_demo_data_says_so_on_the_face_and_in_the_file(made):
    first, *_ = made
    for name in NAMES:
        drawn_text = re.sub(r"<metadata>.*?</metadata>", "", first[f"{name}.svg"].decode(), flags=re.S)
        assert "DEMO" in drawn_text and "not ImageNet" in drawn_text
    for name in NAMES:
        assert b"demo-digits: not ImageNet, no result of the paper" in first[f"{name}.svg"]
    figure = first["figure1.svg"].decode()
    assert "other network" in figure and "demo-digits, width 0.25, 32 px" in figure
    assert "speed of the full-width network" in figure
    assert CPU in figure and "fp32, eager, batch 1, 224 px, 20 samples" in figure


def panels(folder, facts):
    results = Results(folder)
    evidence = Evidence(facts, results, widest(results))
    with style():
        figure = figure1(evidence)
        return [(axes.get_title(loc="left"), axes) for axes in figure.axes]


def test_figure_1_has_the_papers_axes_and_points_and_labels_that_lie_apart(demo, facts):
    (title_a, a), (title_b, b), (title_c, c), (title_d, d) = panels(demo, facts)
    assert title_a.startswith("(a) paper, 120 epochs") and title_b.startswith("(b) paper, 200 epochs")
    assert a.get_xlim() == (250, 1600) and a.get_ylim() == (74, 79)
    assert list(a.get_xticks()) == [300, 600, 900, 1200, 1500]
    assert b.get_xlim() == (150, 650) and list(b.get_yticks()) == [79.4, 79.6, 79.8, 80.0, 80.2, 80.4, 80.6]
    for axes, side in ((a, "left"), (b, "right")):
        points = {tuple(point) for line in axes.lines for point in zip(*line.get_data(), strict=True)}
        assert points == {
            (row["speed_examples_per_s"], row["top1_pct"]) for row in facts.table("figure1") if row["panel"] == side
        }
    assert "(B2g2?)" in {text.get_text() for text in a.texts}
    assert "accuracy printed" in title_c and "printed in the paper" in c.get_ylabel()
    assert "DEMO" in title_d and "demo top-1" in d.get_ylabel()
    assert a.get_facecolor() != d.get_facecolor()
    for axes in (a, b, c):
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        overlaps = [
            (one, other) for number, one in enumerate(boxes) for other in boxes[number + 1 :] if one.overlaps(other)
        ]
        assert len(overlaps) <= 1, f"{len(overlaps)} labels overlap in {axes.get_title(loc='left')}"


def placed(axes, points):
    """Labels of a panel with their boxes, leaders and points, in pixels; each leader belongs to one label."""
    from matplotlib.collections import LineCollection

    to_pixels = axes.transData.transform
    centres = to_pixels([(point.speed, point.top1) for point in points])
    boxes = [text.get_window_extent() for text in axes.texts]
    leaders = [
        to_pixels(ends) for lines in axes.collections if isinstance(lines, LineCollection) and lines.get_zorder() == 2.2
        for ends in lines.get_segments()
    ]  # fmt: skip
    assert len(boxes) == len(centres)
    return centres, boxes, leaders


def off(point, start, end):
    """The distance of a point from the line between two others."""
    share = min(1, max(0, (point - start) @ (end - start) / ((end - start) @ (end - start))))
    return math.hypot(*(point - start - share * (end - start)))


@pytest.mark.parametrize("letter", "abcd")
def test_each_leader_ends_at_the_marker_of_its_label_and_no_label_covers_another(facts, letter):
    evidence = Evidence.shown(facts, Results(PAPER.parent / "results" / "devices"))
    panel = figure1_panels(evidence)["abcd".index(letter)]
    with style():
        (axes,) = panel_figure(panel).axes
        centres, boxes, leaders = placed(axes, panel.points)
        pixels = axes.figure.dpi / 72
        for leader in leaders:
            near = [math.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))
                    for x, y in leader[:1] for box in boxes]  # fmt: skip
            own = near.index(min(near))
            ends = [math.hypot(*(leader[1] - centre)) for centre in centres]
            assert ends.index(min(ends)) == own and ends[own] < 2.5 * pixels, panel.points[own]
            below = [off(centre, *leader) for place, centre in enumerate(centres) if place != own]
            assert min(below) > 2 * pixels, f"the leader of {panel.points[own].model} runs below another marker"
        for number, box in enumerate(boxes):
            assert not [one for one in boxes[number + 1 :] if box.overlaps(one)]
            covered = [place for place, (x, y) in enumerate(centres)
                       if box.x0 - pixels < x < box.x1 + pixels and box.y0 - pixels < y < box.y1 + pixels]  # fmt: skip
            assert not covered, panel.points[number]
    if letter in "cd":
        assert leaders, "a crowded panel"


def test_the_points_of_other_images_name_no_epochs_of_the_paper(made):
    rows = list(csv.DictReader(io.StringIO(made[0]["figure1.csv"].decode())))
    assert {row["series"] for row in rows if "DEMO" in row["panel"]} == {"other images"}
    assert {row["series"] for row in rows if "DEMO" not in row["panel"]} == {"120 epochs", "200 epochs"}


def test_measured_accuracies_replace_the_printed_ones(imagenet, facts):
    results = Results(imagenet)
    (panel,) = our_panels(Evidence(facts, results, widest(results)))
    assert panel.title == "(c) speed (batch 128) and ImageNet accuracy measured here"
    assert {(point.model, point.epochs) for point in panel.points} == {
        (row["model"], row["epochs"]) for table in ("table4", "table5") for row in facts.table(table)
    }
    assert all(point.top1_interval[0] < point.top1 < point.top1_interval[1] for point in panel.points)


def test_without_results_the_figures_say_what_is_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    texts = drawn(tmp_path / "empty", tmp_path / "figures", "figure1", "figure3", "table1", "training")
    assert (
        b"no speed was measured" in texts["figure1.svg"] and b"no speed was measured" in texts["panels/figure1-c.svg"]
    )
    assert not [name for name in texts if name.startswith("training")], "nothing was trained, so nothing is drawn"
    assert b"no kernel sizes" in texts["table1.svg"]
    assert b"was not measured" in texts["figure3.svg"]
    assert b"DEMO" not in texts["figure1.svg"]


def test_the_proxies_figure_draws_what_claim_c32_correlates(demo, facts):
    results = Results(demo)
    points = proxies(Evidence(facts, results, widest(results)))
    assert {point["model"] for point in points} >= {"RepVGG-A0", "ResNet-18", "ResNet-50"}
    assert all(point["wino"] < point["flops"] for point in points)


def test_histories_are_found_by_the_rows_or_taken_as_given(demo, facts):
    evidence = Evidence(facts, Results(demo))
    found = trainings(evidence, None)
    assert len(found) == len(list(evidence.results.rows("accuracy")))
    one = sorted((demo.parent / "weights").rglob("history.csv"))[0]
    assert [(run.dataset, run.model) for run in trainings(evidence, [one])] == [("demo-digits", "RepVGG-A0")]


def test_every_network_has_its_own_panel_of_training_curves_told_apart_without_colour(demo, facts):
    from repvgg_companion.paper.figure_training import CURVES, training

    with style():
        figure = training(Evidence(facts, Results(demo)), None)
    titles = [" ".join(axes.get_title(loc="left").split()) for axes in figure.axes if axes.get_title(loc="left")]
    assert len(titles) == len(set(titles)) == 17 and {"A0", "B0 1x1-only", "B0 plain"} <= set(titles)
    assert len({str(line["linestyle"]) for _, line in CURVES.values()}) == 2


def test_a_baseline_has_one_bar(demo, facts):
    from repvgg_companion.paper.figure_bars import figure3, peak_rows

    forms = [(row["model"], row["form"]) for row in peak_rows(Results(demo).rows("memory"))]
    assert sorted(forms) == [("RepVGG-A0", "deploy"), ("RepVGG-A0", "train"), ("ResNet-18", "deploy")]
    with style():
        figure = figure3(Evidence(facts, Results(demo)))
    assert len(figure.axes[1].patches) == 3


def cut_off(figure):
    """The titles, labels and notes of a figure that reach beyond its edges; its layout is settled."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    texts += [figure._suptitle, figure._supxlabel]
    for axes in figure.axes:
        texts += [axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    found = []
    for text in texts:
        if text is not None and text.get_text():
            extent = text.get_window_extent()
            inside = extent.x0 >= -1 and extent.x1 <= figure.bbox.x1 + 1
            found += [] if inside else [text.get_text()]
    return found


@pytest.mark.parametrize("name", [*NAMES, *(f"figure1-{letter}" for letter in "abcd")])
def test_no_text_is_cut_off(made, name):
    assert made[3][name] == []


def test_no_title_of_other_images_is_cut_off(demo, facts):
    """Accuracies on other images have the longest titles."""
    import matplotlib.pyplot as plt

    from repvgg_companion.contract import read_rows, write_rows
    from repvgg_companion.paper.figure_ablations import branches
    from repvgg_companion.paper.figure_scatter import draw_panel

    rows = [row | {"dataset": "tiny-imagenet-40"} for row in read_rows(demo / "accuracy.csv", "accuracy")]
    write_rows(demo / "accuracy.csv", "accuracy", rows)
    with style():
        figure = branches(Evidence(facts, Results(demo)))
        figure.draw_without_rendering()
        assert cut_off(figure) == []
        (panel,) = [one for one in our_panels(Evidence(facts, Results(demo), widest(Results(demo)))) if one.tint]
        single, axes = plt.subplots()
        draw_panel(axes, panel)
        single.draw_without_rendering()
        assert "no result of the paper" in " ".join(axes.get_title(loc="left").split()) and cut_off(single) == []


def test_block_maps_are_in_units_of_the_input(demo):
    rows = Results(demo).rows("memory")
    assert block_maps(rows, "residual") == pytest.approx([1, 2, 2, 1])
    assert block_maps(rows, "plain") == pytest.approx([1, 1, 1, 1])
    assert block_maps([], "plain") == []


def test_colours_of_the_series_can_be_told_apart_without_hue():
    """Neighbouring series differ in marker, so no series rests on its colour alone."""
    assert len({series.marker for series in SERIES.values()}) == len(SERIES)
    assert len({series.colour for series in SERIES.values()}) == len(SERIES)


def test_ablations_are_compared_within_one_recipe(demo, facts):
    """RepVGG-B0 was also trained by another recipe; beside the ablations stands the training of theirs."""
    from paper_synthetic import accuracy_row, network

    from repvgg_companion.contract import read_rows, write_rows
    from repvgg_companion.paper.table_rows import ablations

    rows = read_rows(demo / "accuracy.csv", "accuracy")
    more = {**network("RepVGG-B0", dataset="demo-digits", width=0.25, classes=10), "n_images": 297, "input_px": 32,
            "protocol": "resize32-crop32-bilinear-pillow"}  # fmt: skip
    for seed in range(5):
        rows.append(accuracy_row("RepVGG-B0", 99.0, recipe="demo-long", digest="feedbeef", seed=str(seed)) | more)
    rows[-1] |= {"top1_high_pct": 100.0}
    write_rows(demo / "accuracy.csv", "accuracy", rows)
    found = other_accuracies(Results(demo), ablations(facts))["demo"].accuracies
    assert found["RepVGG-B0"].recipe == found["RepVGG-B0_plain"].recipe == "demo-5-epochs"
    assert found["RepVGG-B0"].top1 < 95
    assert len(found["RepVGG-B0_plain"].seeds) == 3
    assert found["RepVGG-B0_plain"].network == "demo-digits, width 0.25, 10 classes, 32 px"


@pytest.mark.parametrize(
    "change",
    [{"width": 0.5}, {"dataset": "demo-photos"}, {"recipe": "demo-9-epochs"}, {"input_px": 64},
     {"protocol": "resize32-crop32-bilinear-opencv"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_accuracies_of_another_setting_are_not_compared(demo, facts, change):
    """The full block in another setting only: it is left out of the panel, and the table marks it."""
    from paper_synthetic import plant

    from repvgg_companion.paper.figure_ablations import ablation_columns
    from repvgg_companion.paper.table_rows import ablations, rows_of

    plant(demo, "accuracy", change | {"training_digest": "0aaaaaaa"}, model="RepVGG-B0")
    found = other_accuracies(Results(demo), ablations(facts))["demo"]
    assert set(found.others) == {"RepVGG-B0"} and "RepVGG-B0" not in found.accuracies
    (column,) = ablation_columns(Evidence(facts, Results(demo)))
    assert "RepVGG-B0" not in column.accuracies and "width 0.25" in column.label.replace("\n", " ")
    rows = {row["model"]: row for row in rows_of(Evidence(facts, Results(demo)), "table6")}
    assert any("not comparable" in note for note in rows["RepVGG-B0"]["note"])
    assert not any("not comparable" in note for note in rows["RepVGG-B0_plain"]["note"])


def test_each_device_has_a_panel_of_its_own(tmp_path, facts):
    """A folder of one folder a device, as contributed measurements come: no ratio is formed, each is drawn apart."""
    from paper_synthetic import speed_row

    from repvgg_companion.contract import write_rows

    for device, count in (("gpu-a", 3), ("gpu-b", 2)):
        rows = [speed_row(f"RepVGG-A{number}", "deploy", 1000.0 - number, device=device) for number in range(count)]
        write_rows(tmp_path / device / "speed.csv", "speed", rows)
    results = Results(tmp_path)
    found = our_panels(Evidence(facts, results, widest(results)))
    assert [panel.title[:3] for panel in found] == ["(c)", "(d)"]
    assert [panel.x_label.split("\n")[1] for panel in found] == ["gpu-a", "gpu-b"]
    assert [len(panel.points) for panel in found] == [3, 2]


def test_the_roofline_is_the_measured_one(demo, facts, tmp_path):
    from dataclasses import asdict

    from repvgg_companion.contract import read_rows, write_rows
    from repvgg_companion.files import write_json
    from repvgg_companion.paper.figure_roofline import roofline_of
    from repvgg_companion.speed.roofline import Ceilings, floor_seconds, work_of, work_of_row

    evidence = Evidence(facts, Results(demo), widest(Results(demo)))
    assert roofline_of(evidence) is None
    assert b"no ceilings were measured" in drawn(demo, tmp_path / "none", "roofline")["roofline.svg"]

    ceilings = Ceilings("fp32", 150e9, 15e9, "3x3 convolution")
    rows = read_rows(demo / "speed.csv", "speed")
    for row in rows:
        least = floor_seconds(work_of(row), ceilings.operations_per_s, ceilings.bytes_per_s)
        row["roofline_share"] = least * row["examples_per_s"] / row["batch_size"]
        row["flags"] = "spread 40 %" if (row["model"], row["form"]) == ("RepVGG-A1", "train") else None
    write_rows(demo / "speed.csv", "speed", rows)
    for run_id in {row["run_id"] for row in rows}:
        work = [work_of_row(row) for row in rows if row["run_id"] == run_id]
        write_json(demo / "runs" / f"{run_id}.json", {"ceilings": [asdict(ceilings)], "work": work})
    found = roofline_of(Evidence(facts, Results(demo), widest(Results(demo))))
    assert {place.form for place in found.places} == {"train", "deploy"}
    for place in found.places:
        roof = min(ceilings.operations_per_s, place.intensity * ceilings.bytes_per_s)
        # What holds for every layer holds for their sum, so a network is no closer to the roof than its layers are.
        assert 0 < place.operations_per_s / roof <= place.share * (1 + 1e-9)
    files = drawn(demo, tmp_path / "some", "roofline")
    svg, words = files["roofline.svg"], files["roofline.md"].decode()
    assert b"150 Gop/s:" in svg and b"3x3 convolution" in svg
    assert svg.count(b">*<") == 1 and b">* disturbed speed<" in svg and "*: disturbed speed (busy" in words
    assert words.count("hare of the roofline") == 1 and files["roofline.csv"].count(b",share of the roofline (%),") > 1
    assert all(b"least" not in files[f"roofline.{kind}"] for kind in ("svg", "md", "tex", "csv"))


@pytest.mark.parametrize(("share", "right"), [(0.7, 100), (1.4, 147)])
def test_a_share_above_the_direct_convolution_is_not_cut_off(share, right):
    import matplotlib.pyplot as plt

    from repvgg_companion.paper.figure_roofline import Place, Roofline, _draw_shares

    _, axes = plt.subplots()
    places = (Place("RepVGG-A0", "deploy", 50.0, 1e11, share), Place("RepVGG-B1", "deploy", 60.0, 1e11, 0.6))
    _draw_shares(axes, Roofline(1e11, 1e10, "3x3 convolution", places))
    assert axes.get_xlim() == pytest.approx((0, right))
    plt.close("all")


def test_committed_figures_do_not_change_with_the_commit(demo, tmp_path):
    """`make reference` names a fixed text instead of the commit of the day."""
    words = ["figures", "--experiment", "reference", "--results", str(demo), "--only", "table1", "--commit", "pinned"]
    for folder in ("first", "second"):
        assert main([*words, "--output", str(tmp_path / folder)]) == 0
    first, second = ((tmp_path / folder / "table1.svg").read_bytes() for folder in ("first", "second"))
    assert first == second and b"commit pinned; data" in first
