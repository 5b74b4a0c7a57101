"""Tables of the report: what is the same stands once, an interval with its value, nothing is lost or left unescaped."""

import pytest

from repvgg_companion.errors import CompanionError
from repvgg_companion.results.html_tables import Pivot, claims_table, markdown_table, pivot_table, rows_table


def test_shared_columns_stand_once_and_empty_ones_not_at_all():
    rows = [{"model": "A", "seed": "0", "note": None, "n_inputs": 1234}, {"model": "B", "seed": "0", "note": None}]
    page = rows_table(["model", "seed", "note", "n_inputs"], [{"n_inputs": None} | row for row in rows])
    assert "<p>In every row: seed 0.</p>" in page and "note" not in page
    assert '<td class="n">1,234</td>' in page and "<td>B</td><td></td>" in page


def test_a_single_row_keeps_all_its_columns():
    page = rows_table(["model", "width"], [{"model": "A", "width": 0.25}])
    assert "In every row" not in page and '<td>A</td><td class="n">0.25</td>' in page


def test_small_errors_keep_their_size_and_text_is_escaped():
    page = rows_table(["name", "error"], [{"name": "<a>", "error": 1.5e-15}, {"name": "b", "error": 0.0}])
    assert "&lt;a&gt;" in page and "1.50e-15" in page and "0.00" in page


def test_claims_say_value_interval_verdicts_and_reason():
    row = dict.fromkeys(("device", "precision", "backend", "batch_size", "flags"), None)
    row |= {"id": "C1", "claim": "a < b", "paper_value": ">80", "our_value": "1.1", "low": 1.05, "high": 1.15,
            "verdict_number": "not met", "verdict_inference": "not tested", "reason": "it was slow"}  # fmt: skip
    page = claims_table([row, {**row, "device": "cpu", "precision": "fp32", "batch_size": 1, "low": None}])
    assert "a &lt; b" in page and "1.1 [1.05, 1.15]" in page and '<td class="not-met">' in page
    assert '<td class="not-tested">' in page and "cpu, fp32, batch 1: it was slow" in page


def test_a_markdown_table_comes_with_title_and_notes(tmp_path):
    path = tmp_path / "table.md"
    path.write_text(
        "Table 4. T.\n\n| model | top-1 (%) |\n| --- | ---: |\n| A\\|B<sup>a</sup> | 72.41 |\n\n"
        "- <sup>a</sup> why & how\n"
    )
    page = markdown_table(path)
    assert "<p>Table 4. T.</p>" in page and "<li><sup>a</sup> why &amp; how</li>" in page
    assert '<td class="narrow">A|B<sup>a</sup></td><td class="n">72.41</td>' in page
    with pytest.raises(CompanionError, match="make the tables first"):
        markdown_table(tmp_path / "none.md")


def test_rows_without_a_verdict_can_be_left_out_and_flags_stand_with_the_verdict():
    row = dict.fromkeys(("device", "precision", "backend", "batch_size", "flags", "low", "high", "our_value"), None)
    row |= {"id": "C1", "claim": "c", "paper_value": "1", "verdict_number": "not tested", "reason": "why",
            "verdict_inference": "not tested"}  # fmt: skip
    page = claims_table([row, row | {"verdict_number": "open", "flags": "RepVGG-A0 deploy: busy 59 %"}])
    assert page.count('<tr class="untested">') == 1 and "disturbed: RepVGG-A0 deploy: busy 59 %" in page


def test_a_pivot_has_one_row_a_model():
    pivot = Pivot(("model", "width"), ("form",), ("top1_pct", "low", "high"))
    rows = [{"model": model, "width": 1.0, "form": form, "top1_pct": top1, "low": top1 - 1, "high": top1 + 1,
             "seed": seed, "flags": flags} for model, form, top1, seed, flags in (
        ("A", "train", 70.0, "0", None), ("A", "deploy", 71.0, "0", "busy 9 %"), ("B", "train", 60.0, "0", None),
        ("B", "train", 64.0, "1", None))]  # fmt: skip
    page = pivot_table(pivot, rows)
    assert "<p>All cells: top-1 in percent, width 1.00.</p>" in page
    assert page.count("<tr>") == 3 and "<th>train</th><th>deploy</th>" in page and "width 1.00" in page
    assert '<td class="n">71.00 [70.00, 72.00]<small>busy 9 %</small></td>' in page
    assert '<td class="n">62.00 [60.00, 64.00]<small>2 seeds</small></td>' in page
