"""Tables of the report: what is the same stands once, an interval with its value, nothing is lost or left unescaped."""

import pytest

from repvgg_companion.errors import CompanionError
from repvgg_companion.results.html_tables import claims_table, markdown_table, rows_table


def test_shared_columns_stand_once_and_intervals_with_their_value():
    names = ["model", "batch_size", "flags", "examples_per_s", "low_examples_per_s", "high_examples_per_s"]
    page = rows_table(names, [["A", 1, None, 1234.5, 1200.0, 1300.0], ["B", 1, None, None, None, None]])
    assert "<p>In every row: batch_size 1.</p>" in page and "flags" not in page and "low" not in page
    assert '<td class="n">1,234.50 [1,200.00, 1,300.00]</td>' in page and "<td>B</td><td></td>" in page


def test_a_single_row_keeps_all_its_columns():
    page = rows_table(["model", "width"], [["A", 0.25]])
    assert "In every row" not in page and '<td>A</td><td class="n">0.25</td>' in page


def test_small_errors_keep_their_size_and_text_is_escaped():
    page = rows_table(["name", "error"], [["<a>", 1.5e-15], ["b", 0.0]])
    assert "&lt;a&gt;" in page and "1.50e-15" in page and "0.00" in page


def test_claims_say_value_interval_verdicts_and_reason():
    row = dict.fromkeys(("device", "precision", "backend", "batch_size"), None)
    row |= {"id": "C1", "claim": "a < b", "paper_value": ">80", "our_value": "1.1", "low": 1.05, "high": 1.15,
            "verdict_number": "not met", "verdict_inference": "not tested", "reason": "it was slow"}  # fmt: skip
    page = claims_table([row, {**row, "device": "cpu", "precision": "fp32", "batch_size": 1, "low": None}])
    assert "a &lt; b" in page and "1.1 [1.05, 1.15]" in page and '<td class="not-met">' in page
    assert '<td class="not-tested">' in page and "cpu, fp32, batch 1: it was slow" in page


def test_a_markdown_table_comes_with_title_and_notes(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("Table 4. Title.\n\n| model | top-1 (%) |\n| --- | ---: |\n| A\\|B [1] | 72.41 |\n\n1. why & how\n")
    page = markdown_table(path)
    assert "<p>Table 4. Title.</p>" in page and "<li>why &amp; how</li>" in page
    assert '<td class="narrow">A|B [1]</td><td class="n">72.41</td>' in page
    with pytest.raises(CompanionError, match="make the tables first"):
        markdown_table(tmp_path / "none.md")
