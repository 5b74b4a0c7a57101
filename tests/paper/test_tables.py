"""The eight tables: recounted cells, whose numbers stand where, and that what is empty says why."""

import csv
import re

import pytest
from paper_synthetic import PAPER, accuracy_row, speed_row, write_imagenet

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import widest
from repvgg_companion.paper.latex import as_latex, as_macros, words_of
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.table_display import as_markdown, displayed, header
from repvgg_companion.paper.table_rows import rows_of
from repvgg_companion.paper.tables import provenance


def evidence(folder, facts):
    results = Results(folder)
    return Evidence(facts, results, widest(results), "speed.csv holds no usable rows")


def written(folder, output):
    arguments = ["--experiment", "x", "--results", str(folder), "--paper", str(PAPER), "--output", str(output)]
    assert main(["tables", *arguments]) == 0
    return {
        f"table{number}": list(csv.DictReader((output / f"table{number}.csv").open(encoding="utf-8")))
        for number in range(1, 9)
    }


def test_every_printed_count_is_recounted_but_for_the_known_exceptions(tmp_path, facts):
    odd, cells = [], 0
    for table in ("table4", "table5"):
        for row in rows_of(evidence(tmp_path, facts), table):
            for column in ("params_m", "flops_b", "wino_muls_b"):
                match = row[f"{column.rsplit('_', 1)[0]}_match"]
                cells += row[f"paper_{column}"] is not None
                if match not in ("yes", "not printed"):
                    odd.append((table, row["model"], column, row[f"paper_{column}"], row[f"recount_{column}"], match))
    assert cells == 24 + 24 + 22
    assert odd == [
        ("table4", "ResNeXt-50", "wino_muls_b", 4.1, 4.2, "no, known exception"),
        ("table5", "EfficientNet-B3", "params_m", 12.19, 12.18, "no, known exception"),
    ]


def test_table_1_has_one_misprint(tmp_path, facts):
    rows = rows_of(evidence(tmp_path, facts), "table1")
    assert [row["flops_match"] for row in rows] == ["yes"] * 4
    assert [row["density_match"] for row in rows] == ["yes", "yes", "no, known exception", "yes"]
    assert rows[2]["recount_density_tflops"] == 10.05 and "misprint" in rows[2]["note"][0]


def test_tables_2_and_3_are_the_built_networks(tmp_path, facts):
    assert {row["match"] for row in rows_of(evidence(tmp_path, facts), "table2")} == {"yes"}
    rows = rows_of(evidence(tmp_path, facts), "table3")
    assert {(row["layers_match"], row["width_match"]) for row in rows} == {("yes", "yes")}
    grouped = {row["model"]: row["recount_groupwise_layers"] for row in rows}
    assert grouped["RepVGG-B1"] is None
    assert grouped["RepVGG-B1g4"] == "3 5 7 9 11 13 15 17 19 21 23 25 27"


def test_a_wrong_count_is_shown_as_no_match(tmp_path, facts, monkeypatch):
    row = {"experiment": "x", "model": "RepVGG-A0", "base_model": "RepVGG-A0", "width": 1.0, "num_classes": 1000,
           "run_id": "r", "form": "deploy", "params": 8_399_999, "flops": 1_361_451_008, "wino_muls": 747_300_000.0,
           "input_px": 224}  # fmt: skip
    write_rows(tmp_path / "complexity.csv", "complexity", [row])
    rows = {row["model"]: row for row in rows_of(evidence(tmp_path, facts), "table4")}
    assert rows["RepVGG-A0"]["params_match"] == "no" and rows["RepVGG-A0"]["recount_params_m"] == 8.39
    assert rows["RepVGG-A0"]["flops_match"] == "yes" and rows["RepVGG-A1"]["params_match"] == "yes"


def test_ours_holds_only_imagenet_and_demo_stands_apart(demo, tmp_path, facts):
    tables = written(demo, tmp_path / "tables")
    rows = {row["model"]: row for row in tables["table4"]}
    a0 = rows["RepVGG-A0"]
    assert a0["ours_top1_pct"] == ""
    assert float(a0["demo_top1_pct"]) > 80
    assert a0["demo_network"] == "demo-digits, width 0.25, 10 classes, 32 px"
    assert "demo-digits" in a0["note"] and "nothing about ImageNet" in a0["note"]
    assert float(a0["ours_speed_examples_per_s"]) == pytest.approx(3256 / 30)
    assert "batch 1, 224 px" in a0["ours_speed_setting"]
    assert rows["VGG-16"]["ours_speed_examples_per_s"] == "" and "ours_speed" in rows["VGG-16"]["note"]
    assert rows["VGG-16"]["demo_top1_pct"] == "" and "demo_top1: it was not trained" in rows["VGG-16"]["note"]
    for name in ("table4", "table5", "table6", "table7"):
        assert not any("ours_top1" in column and row[column] for row in tables[name] for column in row)
        for kind in ("md", "tex"):
            text = (tmp_path / "tables" / f"{name}.{kind}").read_text(encoding="utf-8")
            assert "demo: measured on demo-digits, which is not ImageNet" in text


def test_seeds_give_a_t_interval_and_the_best_epoch_stands_beside_the_last(demo, tmp_path, facts):
    from scipy import stats

    tables = written(demo, tmp_path / "tables")
    row = next(row for row in tables["table6"] if row["model"] == "RepVGG-B0_plain")
    values = [part["top1_pct"] for part in read_rows(demo / "accuracy.csv", "accuracy")
              if part["model"] == "RepVGG-B0_plain"]  # fmt: skip
    low, high = stats.t.interval(0.95, 2, sum(values) / 3, stats.sem(values))
    assert int(row["demo_seeds"]) == 3
    assert float(row["demo_top1_low_pct"]) == pytest.approx(low)
    assert float(row["demo_top1_high_pct"]) == pytest.approx(high)
    assert float(row["demo_best_epoch_top1_pct"]) == pytest.approx(sum(values) / 3)
    assert "best_epoch" not in row["note"]


def test_a_best_epoch_below_the_final_accuracy_is_noted(demo, tmp_path):
    """The validation after each epoch may decode otherwise than the evaluation."""
    (path,) = (demo.parent / "weights" / "demo-digits" / "RepVGG-A0").rglob("history.csv")
    epochs = [row | {"val_top1_pct": 1.0} for row in read_rows(path, "history")]
    write_rows(path, "history", epochs)
    row = next(row for row in written(demo, tmp_path / "tables")["table4"] if row["model"] == "RepVGG-A0")
    assert "demo_best_epoch: it lies below the final top-1" in row["note"]


def test_imagenet_results_stand_beside_the_print(tmp_path, facts):
    folder = write_imagenet(tmp_path / "imagenet", facts)
    for name in ("table4", "table5"):
        for row in rows_of(evidence(folder, facts), name):
            assert row["ours_top1_pct"] == pytest.approx(row["paper_top1_pct"], abs=0.01)
            assert row["ours_speed_examples_per_s"] == row["paper_speed_examples_per_s"]
            assert "demo_top1_pct" not in row
    speeds = {row["model"]: row["ours_speed_examples_per_s"] for row in rows_of(evidence(folder, facts), "table6")}
    assert speeds["RepVGG-B0"] == 1061  # the train form, not the 1817 of the converted network
    full = rows_of(evidence(folder, facts), "table1")
    assert full[1]["ours_density_tflops"] == pytest.approx(38.11, abs=0.01) and full[1]["small_time_ms"] is None


def test_released_b2g4_stays_empty_in_table_4_and_fills_table_5(tmp_path, facts):
    row = accuracy_row("RepVGG-B2g4", 79.38, recipe="released", digest="released_0123abcd", seed="none")
    write_rows(tmp_path / "accuracy.csv", "accuracy", [row])
    found = {
        name: next(row for row in rows_of(evidence(tmp_path, facts), name) if row["model"] == "RepVGG-B2g4")
        for name in ("table4", "table5")
    }
    assert found["table4"]["ours_top1_pct"] is None
    assert "those of another recipe" in " ".join(found["table4"]["note"])
    assert found["table5"]["ours_top1_pct"] == 79.38


def test_a_smaller_pspnet_is_labelled(tmp_path, facts):
    row = speed_row("PSPNet-ResNet-50", "deploy", 0.4, input_px=241, batch_size=1)
    write_rows(tmp_path / "speed.csv", "speed", [row])
    rows = {row["model"]: row for row in rows_of(evidence(tmp_path, facts), "table8")}
    assert rows["PSPNet-ResNet-50"]["ours_speed_examples_per_s"] is None
    assert rows["PSPNet-ResNet-50"]["small_speed_examples_per_s"] == 0.4
    assert any("241 px, batch 1" in note for note in rows["PSPNet-ResNet-50"]["note"])
    caption = provenance(list(rows.values()), Results(tmp_path), "x")
    assert "small: measured here at a smaller size than the paper's, experiment x." in caption
    assert "ours" not in caption


def test_a_caption_explains_the_columns_that_hold_something(tmp_path, facts):
    nothing = rows_of(evidence(tmp_path, facts), "table1")
    assert provenance(nothing, Results(tmp_path), "x") == "paper: printed in arXiv 2101.03697v3."
    folder = write_imagenet(tmp_path / "imagenet", facts)
    full = provenance(rows_of(evidence(folder, facts), "table1"), Results(folder), "x")
    assert "; ours: measured here, experiment x." in full and "small" not in full


def test_notes_that_differ_between_rows_stand_at_their_row_even_without_their_column():
    """Notes on a column that no row fills are not statements about the whole table unless all rows have them."""
    rows = [{"model": name, "paper_top1_pct": 72.4, "ours_top1_pct": None, "note": ["all: same", f"ours_top1: {why}"]}
            for name, why in (("A", "not trained"), ("B", "another recipe"))]  # fmt: skip
    table = displayed(rows)
    assert table.notes == ["ours top-1: not trained", "ours top-1: another recipe"]
    assert table.marks == [{0: [1]}, {0: [2]}] and table.general == ["all: same"]


def test_table_7_tells_what_was_decided_here(tmp_path, facts):
    rows = {row["model"]: row for row in rows_of(evidence(tmp_path, facts), "table7")}
    assert rows["RepVGG-B0_relu-in-branch"]["convertible"] == "no"
    assert any("outer ReLU" in note for note in rows["RepVGG-B0_relu-in-branch"]["note"])
    assert any("stride 2" in note for note in rows["RepVGG-B0_diracnet"]["note"])
    assert rows["RepVGG-B0_acb"]["paper_delta_points"] == -1.56
    assert rows["ResNet-50_repvgg-blocks"]["paper_delta_points"] == 0.03


def test_headers_are_words():
    assert header("paper_top1_pct") == "paper top-1 (%)"
    assert header("ours_speed_examples_per_s") == "ours speed (examples/s)"
    assert header("recount_wino_muls_b") == "recount Wino MULs (B)"


def test_markdown_and_latex_hold_every_row_and_escape(tmp_path):
    rows = [
        {"model": "A_b", "paper_top1_pct": 50.0, "empty_pct": None, "note": ["100 % & more"]},
        {"model": "C|d", "paper_top1_pct": None, "empty_pct": None, "note": []},
    ]
    text = as_markdown(rows, "Title.")
    assert "| A_b<sup>a</sup> | 50.00 |" in text and "| C\\|d | – |" in text and "empty" not in text
    assert "- <sup>a</sup> 100 % & more" in text
    latex = as_latex(rows, "Title_1", "table9")
    assert "A\\_b\\tnote{a} & 50.00 \\\\" in latex and "100 \\% \\& more" in latex and "Title\\_1" in latex
    assert len(re.findall(r"(?<!\\)&", latex)) == 3  # one between two columns in the header and in each row
    assert latex.count("{") == latex.count("}")


def test_latex_numbers_the_table_and_constant_texts_are_said_once(demo, tmp_path, facts):
    written(demo, tmp_path / "tables")
    latex = (tmp_path / "tables" / "table4.tex").read_text(encoding="utf-8")
    assert "\\caption{Models trained with" in latex and "Table 4" not in latex
    assert " [1]" not in latex and "\\tnote{a}" in latex and "resizebox" not in latex and "ours_" not in latex
    rows = [
        {"model": name, "ours_speed_setting": "cpu, fp32", "other": other, "note": ["of all", *notes]}
        for name, other, notes in (("A", "x", [f"n{n}" for n in range(28)]), ("B", "y", []))
    ]
    markdown, latex = as_markdown(rows, "T."), as_latex(rows, "T", "t")
    assert "- ours speed setting: cpu, fp32\n- of all\n" in markdown and "| model | other |" in markdown
    assert latex.count("cpu, fp32") == 1 and "z,aa,ab}" in latex and "\\item[ab] n27." in latex
    assert "  \\item of all.\n" in latex, "a note of every row has no mark"


def test_every_character_of_latex_is_escaped_once():
    rows = [{"model": "a\\b{c}^~$#|<x>", "paper_top1_pct": 50.0, "note": []}]
    latex = as_latex(rows, "T", "t")
    escaped = "a\\textbackslash{}b\\{c\\}\\textasciicircum{}\\textasciitilde{}\\$\\#\\textbar{}"
    assert f"{escaped}\\textless{{}}x\\textgreater{{}}" in latex


def test_printed_numbers_stand_as_printed_and_intervals_beside_their_value(demo, tmp_path, facts):
    written(demo, tmp_path / "tables")
    text = (tmp_path / "tables" / "table1.md").read_text(encoding="utf-8")
    for fact in facts.table("table1"):
        assert f"| {fact['flops_b']} | {fact['time_ms']} |" in text
    assert re.search(r"\| \d[\d.]* \[\d[\d.]*, \d[\d.]*\] \|", text)  # our time with its interval
    text = (tmp_path / "tables" / "table8.md").read_text(encoding="utf-8")
    for fact in facts.table("table8"):
        assert f"| {fact['speed_examples_per_s']:.1f} |" in text
    text = (tmp_path / "tables" / "table7.md").read_text(encoding="utf-8")
    assert "| -0.96 |" in text and "| +0.55 |" in text
    head = (tmp_path / "tables" / "table7.tex").read_text(encoding="utf-8")
    assert "\\begin{tabular}{lp{13em}rrl" in head


def test_every_conversion_of_table_8_is_certified_without_training(tmp_path, facts, monkeypatch):
    from repvgg_companion.models.blocks import BATCH_NORM_EPSILON
    from repvgg_companion.paper import structure
    from repvgg_companion.reparameterization import convert

    for row in rows_of(evidence(tmp_path, facts), "table8"):
        assert row["conversion_certified"] == "yes" and 0 < row["conversion_float64_error"] < 1e-12
        assert any("random weights" in note for note in row["note"])
    # A conversion that forgets the epsilon is noticed.
    structure.conversion_errors.cache_clear()
    right = convert.norm_scale_and_shift
    monkeypatch.setattr(convert, "norm_scale_and_shift", lambda norm, eps: right(norm, eps - BATCH_NORM_EPSILON))
    rows = {row["model"]: row for row in rows_of(evidence(tmp_path, facts), "table8")}
    structure.conversion_errors.cache_clear()
    assert rows["PSPNet-RepVGG-B1g2"]["conversion_certified"] == "no"


def test_only_mismatches_are_marked(tmp_path, facts):
    found = {}
    for name in ("table4", "table5"):
        rows = rows_of(evidence(tmp_path, facts), name)
        table = displayed(rows)
        assert not any("match" in words or "recount" in words for words in table.headers)
        own = {row["model"]: marks for row, marks in zip(rows, table.marks, strict=True) if marks}
        found |= {(model, table.headers[place]): [table.notes[number - 1] for number in numbers]
                  for model, marks in own.items() for place, numbers in marks.items()}  # fmt: skip
        assert any("recounted here" in words for words in table.general)
    assert found["ResNeXt-50", "paper Wino MULs (B)"][0].startswith("counted here: 4.2; ")
    assert found["EfficientNet-B3", "paper params (M)"][0].startswith("counted here: 12.18; ")
    assert {header for _, header in found} <= {"paper Wino MULs (B)", "paper params (M)", "model"}


def test_a_count_that_is_not_printed_stands_in_brackets(tmp_path, facts):
    rows = rows_of(evidence(tmp_path, facts), "table4")
    table = displayed(rows)
    for row, cells in zip(rows, table.cells, strict=True):
        shown = dict(zip(table.headers, cells, strict=True))["paper Wino MULs (B)"]
        assert shown.startswith("(") == (row["paper_wino_muls_b"] is None and row["recount_wino_muls_b"] is not None)


def test_the_csv_alone_names_run_weights_and_form(demo, tmp_path):
    tables = written(demo, tmp_path / "tables")
    row = next(row for row in tables["table6"] if row["model"] == "RepVGG-B0_plain")
    assert row["demo_top1_form"] == "deploy" and row["demo_top1_run_id"] == "evaluate"
    assert row["demo_top1_weights_sha256"] == "0" * 64
    assert next(row for row in tables["table4"] if row["model"] == "RepVGG-A0")["ours_speed_form"] == "deploy"
    assert tables["table1"][0]["small_time_run_id"]
    for name in tables:
        text = "".join((tmp_path / "tables" / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("md", "tex"))
        assert "sha256" not in text and "run_id" not in text and "run id" not in text


def test_numbers_come_as_macros(demo, tmp_path):
    assert words_of("B1g2") == "BOneGTwo" and words_of("tiny-imagenet-40") == "TinyImagenetFourZero"
    written(demo, tmp_path / "tables")
    text = (tmp_path / "tables" / "numbers.tex").read_text(encoding="utf-8")
    macros = dict(re.findall(r"^\\newcommand\{\\(\w+)\}\{(.*)\}% ", text, re.M))
    assert len(macros) == text.count("\\newcommand") and all(name.isalpha() for name in macros)
    row = next(
        row for row in csv.DictReader((tmp_path / "tables" / "table4.csv").open()) if row["model"] == "RepVGG-A0"
    )
    assert macros["repvggXTopOneAZero"] == f"{float(row['demo_top1_pct']):.2f}"
    assert macros["repvggXTopOneLowAZero"] == f"{float(row['demo_top1_low_pct']):.2f}"
    assert macros["repvggXParamsAZero"] == "8.30" and "batch 1, 224 px" in macros["repvggXSpeedSetting"]


def test_a_macro_that_two_tables_give_differently_names_its_table():
    tables = {"table4": [{"model": "RepVGG-A0", "ours_top1_pct": 72.0, "note": []}],
              "table5": [{"model": "RepVGG-A0", "ours_top1_pct": 73.0, "note": []}]}  # fmt: skip
    text = as_macros(tables, "x")
    assert "{\\repvggXTopOneAZero}{72.00}" in text and "{\\repvggXTopOneAZeroTableFive}{73.00}" in text
