"""What figures and captions say of an experiment of one's own: nothing untrue, and nothing overprinted."""

from itertools import islice

import pytest
from paper_synthetic import plant, speed_row

from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.paper import figure_scatter, figure_style
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.figure_bars import table1
from repvgg_companion.paper.figure_captions import caption
from repvgg_companion.paper.figure_proxies import proxy_panels
from repvgg_companion.paper.figure_scatter import draw_panel, figure1, figure1_panels, our_panels, panel_figure
from repvgg_companion.paper.figure_training import training, trainings
from repvgg_companion.paper.figures import PANELS, FiguresRequest, write_figures
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.table_rows import rows_of
from repvgg_companion.results.report import _figures, _notes


@pytest.mark.parametrize("name", ["flowers", "a-very-long-name-" * 9, "m" * 120])
def test_the_words_on_other_images_lie_below_everything_else(name):
    import matplotlib.pyplot as plt

    with figure_style.style():
        figure, (_, last) = plt.subplots(2, 1)
        last.set_xlabel("Wino MULs (B)")
        figure.supxlabel("device", fontsize=7)
        figure_style.freeze_layout(figure)
        high = last.get_window_extent().height
        figure_style.mark_experiment(figure, name, ["flowers"])
        figure.draw_without_rendering()
        device, words = (text.get_window_extent() for text in figure.texts)
        assert words.y0 >= 0 and words.y1 <= device.y0 and device.y1 <= last.xaxis.label.get_window_extent().y0
        assert words.x0 >= 0 and words.x1 <= figure.bbox.x1
        assert last.get_window_extent().height == pytest.approx(high, abs=0.01), "labels keep their distances"


def test_a_disturbed_speed_has_a_star_in_every_figure_and_a_note_in_its_table(imagenet, facts):
    names = ("figure1", "proxies", "roofline")
    evidence = Evidence.shown(facts, Results(imagenet))
    assert not any("isturbed" in caption(name, evidence, None) for name in names)
    assert not any("isturbed" in note for row in rows_of(evidence, "table4") for note in row["note"])
    plant(imagenet, "speed", {"flags": "busy: 59 %; drift +8 %"}, model="RepVGG-A2", form="deploy")
    evidence = Evidence.shown(facts, Results(imagenet))
    assert all("*: disturbed speed" in caption(name, evidence, None) for name in ("figure1", "proxies"))
    request = FiguresRequest("x", evidence, imagenet / "figures", ("figure1", "proxies"))
    write_figures(request)
    for name in request.names:
        drawn = (request.output / f"{name}.svg").read_text()
        assert ">A2*<" in drawn and ">A1*<" not in drawn and ">* disturbed speed<" in drawn
    (row,) = (row for row in rows_of(evidence, "table4") if row["model"] == "RepVGG-A2")
    assert "ours_speed: disturbed (busy, drift), so it decides no claim" in row["note"]
    assert "isturbed" not in caption("table1", evidence, None)
    plant(imagenet, "kernel_size", {"flags": "spread 51 %"}, kernel_size=3)
    evidence = Evidence.shown(facts, Results(imagenet))
    assert "*: disturbed speed" in caption("table1", evidence, None)
    write_figures(FiguresRequest("x", evidence, imagenet / "figures", ("table1",)))
    drawn = (imagenet / "figures" / "table1.svg").read_text()
    assert ">38.1*<" in drawn and ">9.96<" in drawn and ">* disturbed speed<" in drawn
    notes = [row["note"] for row in rows_of(evidence, "table1")]
    assert ["disturbed (spread)" in " ".join(note) for note in notes] == [False, True, False, False]


@pytest.mark.parametrize(
    ("densities", "factor", "flags"),
    [((0.0287, 0.0321, 0.00642, 0.0201), 1.06, None), ((0.0287, 0.0321, 0.0319, 0.0322), 1.9, "spread 90 %"),
     ((1.23e-05, 1.24e-05, 1.11e-07, 1.22e-05), 1.06, "drift +9 %"), ((38.1, 812, 1050, 938), 1.01, None)],
)  # fmt: skip
def test_the_numbers_of_table_1_lie_on_nothing_else(demo, facts, densities, factor, flags):
    for size, density in zip((1, 3, 5, 7), densities, strict=True):
        plant(demo, "kernel_size", {"tflops": density, "flags": flags}, kernel_size=size)
        (row,) = (row for row in Results(demo).rows("kernel_size") if row["kernel_size"] == size)
        bounds = {"low_ms": row["time_ms"] / factor, "high_ms": row["time_ms"] * factor}
        plant(demo, "kernel_size", bounds, kernel_size=size)
    with figure_style.style():
        figure = table1(Evidence.shown(facts, Results(demo)))
        figure.draw_without_rendering()
        for axes in figure.axes:
            numbers = [text.get_window_extent() for text in axes.texts]
            bars = [bar.get_window_extent() for bar in axes.patches]
            spans = [axes.transData.transform(end) for lines in axes.collections for end in lines.get_segments()]
            assert len(spans) == (4 if axes is figure.axes[1] else 0)
            assert all(span[1][0] < number.x0 for span, number in zip(spans, numbers, strict=False))
            panel = axes.get_window_extent()
            assert len(numbers) == 4
            for place, number in enumerate(numbers):
                assert not any(number.overlaps(other) for other in [*numbers[:place], *bars])
                assert panel.x0 < number.x0 < number.x1 <= panel.x1 + 1 and panel.y0 < number.y0


def test_speeds_at_another_width_than_the_papers_are_not_denied(tmp_path, facts):
    import matplotlib.pyplot as plt

    empty = Evidence.shown(facts, Results(tmp_path))
    assert "(c) measured here: no speed was measured." in caption("figure1", empty, None)
    write_rows(tmp_path / "speed.csv", "speed", [speed_row("RepVGG-A0", "deploy", 1000.0) | {"width": 0.25}])
    evidence = Evidence.shown(facts, Results(tmp_path))
    assert "(c) measured here: no speed was measured at the paper's width and" in caption("figure1", evidence, None)
    assert "Roofline: no speed was measured at the paper's width and" in caption("roofline", evidence, None)
    with figure_style.style():
        figure, axes = plt.subplots()
        (panel,) = our_panels(evidence)
        draw_panel(axes, panel)
        figure.draw_without_rendering()
        assert axes._left_title.get_window_extent().x1 <= figure.bbox.x1


def test_a_caption_cites_printed_values_only_where_there_are_some(tmp_path, facts, demo):
    evidence = Evidence.shown(facts, Results(demo))
    one = trainings(evidence, None)[0].source.split()[2:]
    (history,) = [path for path in (demo.parent / "weights").rglob("history.csv") if path.parts[-5:-1] == tuple(one)]
    request = FiguresRequest("demo", evidence, tmp_path / "figures", ("training", "table1"), [history])
    write_figures(request)
    cited = {name: "\\cite" in (request.output / f"{name}.tex").read_text() for name in request.names}
    assert cited == {"training": False, "table1": True}
    assert "Training curves of 1 training on" in (request.output / "training.md").read_text()
    assert "1 training<" in (request.output / "training.svg").read_text()
    assert (request.output / "references.bib").read_text().count("year ") == 2


def test_a_caption_names_no_side_where_nothing_stands_beside_the_printed_values(tmp_path, facts, demo):
    empty, full = (caption("branches", Evidence.shown(facts, Results(folder)), None) for folder in (tmp_path, demo))
    assert "Left" not in empty and "Printed in these tables" in empty
    assert "Left: printed" in full and "Beside them" in full


def test_the_two_forms_of_one_training_carry_a_note_once():
    form = {"dataset": "flowers", "model": "RepVGG-A0", "training_digest": "94e1492a", "note": "small batches"}
    weights = [form | {"seed": seed, "form": kind} for seed in ("0", "1") for kind in ("train", "deploy")]
    assert _notes(weights[:2]) == "small batches"
    assert _notes(weights) == "small batches (2 trainings)"


@pytest.fixture
def one_seed_and_epoch(demo):
    """The demo with one seed of each network, and one epoch of each training."""
    rows = [row for row in read_rows(demo / "accuracy.csv", "accuracy") if row["seed"] == "0"]
    write_rows(demo / "accuracy.csv", "accuracy", rows)
    for history in (demo.parent / "weights").rglob("history.csv"):
        write_rows(history, "history", read_rows(history, "history")[:1])
    return demo


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 40])
def test_training_curves_have_whole_epochs_below_them(demo, facts, epochs):
    for history in (demo.parent / "weights").rglob("history.csv"):
        first = read_rows(history, "history")[0]
        write_rows(history, "history", [first | {"epoch": number} for number in range(1, epochs + 1)])
    with figure_style.style():
        figure = training(Evidence.shown(facts, Results(demo)), None)
        figure.draw_without_rendering()
        for axes in figure.axes:
            low, high = axes.get_xlim()
            shown = [tick for tick in axes.get_xticks() if low <= tick <= high and axes.lines]
            assert all(tick in range(0 if epochs > 5 else 1, epochs + 1) for tick in shown) and (
                shown or not axes.lines
            )
        lines = [line.get_linestyle() for line in figure.legends[0].get_lines()]
        assert ("None" in lines) == (epochs == 1), "the legend has lines where lines are drawn"


def test_a_training_of_one_epoch_has_points_and_no_lines_in_its_caption(demo, one_seed_and_epoch, facts):
    evidence = Evidence.shown(facts, Results(demo))
    words = caption("training", evidence, None)
    assert "17 trainings" in words and "(recipe: demo-5-epochs)" in words and "one pair of points a training" in words
    assert "line" not in words and "solid" not in words and "dashed" not in words
    history = next((demo.parent / "weights").rglob("history.csv"))
    first = read_rows(history, "history")[0]
    write_rows(history, "history", [first, first | {"epoch": 2}])
    words = caption("training", evidence, None)
    assert "one pair of lines (points where it has one epoch) a training" in words


def test_single_seeds_are_named_where_several_are_drawn(demo, facts):
    assert "small dots: single seeds" in caption("branches", Evidence.shown(facts, Results(demo)), None)


def test_one_seed_is_not_called_several(one_seed_and_epoch, facts):
    words = caption("branches", Evidence.shown(facts, Results(one_seed_and_epoch)), None)
    assert "95 % intervals over images. " in words and "seed" not in words


def test_the_proxies_caption_says_which_networks_a_panel_has(demo, facts):
    evidence = Evidence.shown(facts, Results(demo))
    words = caption("proxies", evidence, None)
    assert "A panel has the networks of Table 4 with a speed and both counts." in words
    (_, printed), (_, ours) = proxy_panels(evidence)
    both = [row["model"] for row in facts.table("table4") if row["wino_muls_b"] is not None]
    measured = {row["model"] for row in Results(demo).rows("speed")}
    assert [one["model"] for one in printed] == both
    assert [one["model"] for one in ours] == [model for model in both if model in measured]
    assert f"20 samples, {len(ours)} networks." in words


def test_open_markers_are_the_networks_of_200_epochs_in_every_panel_whose_legend_says_so(
    demo, imagenet, facts, monkeypatch
):
    monkeypatch.setattr(figure_scatter, "write_labels", lambda *_: None)  # names take most of the time
    for folder in (demo, imagenet):
        every = figure1_panels(Evidence.shown(facts, Results(folder)))
        for shown in [every, *([panel] for panel in every)]:
            with figure_style.style():
                figure = figure1(Evidence.shown(facts, Results(folder))) if shown is every else panel_figure(*shown)
            legend = "open: 200 epochs" in [text.get_text() for text in figure.legends[0].get_texts()]
            assert legend == any(point.epochs == 200 for panel in shown for point in panel.points)
            for axes, panel in zip(figure.axes, shown, strict=True):
                markers = [line for line in axes.lines if line.get_marker() != "None"]
                drawn_open = {xy for line in markers if line.get_markerfacecolor() == "white"
                              for xy in zip(*line.get_data(), strict=True)}  # fmt: skip
                assert drawn_open == {(one.speed, one.top1) for one in panel.points if one.epochs == 200}, panel.title


def test_panels_of_an_earlier_drawing_are_removed_and_captions_say_what_a_panel_has(demo, tmp_path, facts, monkeypatch):
    monkeypatch.setattr(figure_scatter, "write_labels", lambda *_: None)  # names take most of the time
    output = tmp_path / "figures"
    (output / PANELS).mkdir(parents=True)
    for name in ("figure1-e.svg", "figure1-e.md", "own.txt"):
        (output / PANELS / name).write_text("of an earlier drawing")
    evidence = Evidence.shown(facts, Results(demo))
    write_figures(FiguresRequest("demo", evidence, output, ("figure1",)))
    left = {path.stem for path in (output / PANELS).iterdir()}
    assert left == {"own", *(f"figure1-{letter}" for letter in "abcd")}
    words = {letter: (output / PANELS / f"figure1-{letter}.md").read_text() for letter in "abcd"}
    assert [letter for letter in "abcd" if "question mark" in words[letter]] == ["a", "c"]
    assert [letter for letter in "abcd" if "Lines join the networks of a family." in words[letter]] == ["a", "b", "c"]
    assert "Lines join the networks of a family, except on other images" in caption("figure1", evidence, None)
    for own_images, letters in ((False, "abcd"), (True, "cd")):
        shown = list(islice(_figures(output, own_images), len(letters)))
        assert [(one.caption[:3], one.is_panel) for one in shown] == [(f"({letter})", True) for letter in letters]


def test_the_caption_of_the_ablations_says_which_networks_are_in_their_train_form():
    from types import SimpleNamespace

    from repvgg_companion.paper.figure_captions import _forms

    def column(**forms):
        names = {"b0": "RepVGG-B0", "acb": "RepVGG-B0_acb", "relu": "RepVGG-B0_relu-in-branch",
                 "reorg": "RepVGG-B0_residual-reorg"}  # fmt: skip
        return {names[key]: SimpleNamespace(rows=[{"form": form}]) for key, form in forms.items()}

    assert _forms(column(b0="deploy", acb="deploy")) == "deploy form"
    assert _forms(column(b0="deploy", acb="deploy", relu="train")) == (
        "deploy form (B0_relu-in-branch: train form, since it cannot be converted)"
    )
    assert _forms(column(b0="deploy", acb="deploy", relu="train", reorg="train")).endswith(
        "(B0_relu-in-branch and B0_residual-reorg: train form, since they cannot be converted)"
    )
