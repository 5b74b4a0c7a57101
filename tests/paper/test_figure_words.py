"""What figures and captions say of an experiment of one's own: nothing untrue, and nothing overprinted."""

import pytest
from paper_synthetic import plant, speed_row

from repvgg_companion.contract import write_rows
from repvgg_companion.paper import figure_style
from repvgg_companion.paper.claim_evidence import Evidence
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
    plant(imagenet, "kernel_size", {"flags": "spread 51 %"}, kernel_size=3)
    notes = [row["note"] for row in rows_of(Evidence.shown(facts, Results(imagenet)), "table1")]
    assert ["disturbed (spread)" in " ".join(note) for note in notes] == [False, True, False, False]


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
