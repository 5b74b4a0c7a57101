"""What figures and captions say of an experiment of one's own: nothing untrue, and nothing overprinted."""

import pytest
from paper_synthetic import plant, speed_row

from repvgg_companion.contract import write_rows
from repvgg_companion.paper import figure_style
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.figure_bars import table1
from repvgg_companion.paper.figure_captions import caption
from repvgg_companion.paper.figure_scatter import draw_panel, our_panels
from repvgg_companion.paper.figure_training import trainings
from repvgg_companion.paper.figures import FiguresRequest, write_figures
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.table_rows import rows_of
from repvgg_companion.results.report import _notes


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
