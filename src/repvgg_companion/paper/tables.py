"""The `tables` verb: write Tables 1 to 8 of the paper beside our results, each as CSV, Markdown and LaTeX.

The CSV holds every column; Markdown and LaTeX leave out empty columns, put intervals beside their value and the notes
below the table.
"""

import argparse
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.files import write_text
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.table_rows import TABLES

TITLES = {
    "table1": "Kernel size and computational density",
    "table2": "Architecture: 3x3 layers per stage",
    "table3": "Variants: layers and widths",
    "table4": "Models trained with the 120-epoch recipe",
    "table5": "Models trained with the 200-epoch recipe",
    "table6": "Ablation of the branches of RepVGG-B0, speed before conversion",
    "table7": "Variants of the block of RepVGG-B0",
    "table8": "Semantic segmentation on Cityscapes with PSPNet",
}
_WORDS = {
    "top1": "top-1",
    "pct": "(%)",
    "examples per s": "(examples/s)",
    "params m": "params (M)",
    "flops b": "FLOPs (B)",
    "flops": "FLOPs",
    "wino muls b": "Wino MULs (B)",
    "wino muls": "Wino MULs",
    "tflops": "(TFLOPS)",
    "ms": "(ms)",
    "px": "(px)",
    "conv1x1": "1x1",
    "n samples": "samples",
    "mean iou": "mIoU",
    "pixel acc": "pixel accuracy",
}
_UNITS = ("_pct", "_points", "_examples_per_s", "_ms")


@dataclass(frozen=True)
class TablesRequest:
    """Which experiment to put beside the paper, and the folder for the tables."""

    experiment: str
    evidence: Evidence
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `tables` verb."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--results", required=True, help="folder results/EXPERIMENT")
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--output", required=True, help="folder for table1.csv to table8.tex")


def run(arguments: argparse.Namespace) -> None:
    """Write all eight tables in three formats."""
    evidence = Evidence.shown(Facts(Path(arguments.paper)), Results(Path(arguments.results)))
    write_tables(TablesRequest(arguments.experiment, evidence, Path(arguments.output)))


def write_tables(request: TablesRequest) -> None:
    """Write `table1` to `table8` as CSV, Markdown and LaTeX."""
    for name, rows_of in TABLES.items():
        rows = rows_of(request.evidence)
        caption = f"{TITLES[name]}. {provenance(rows, request.evidence.results, request.experiment)}"
        target = request.output / name
        write_text(target.with_suffix(".csv"), as_csv(rows))
        write_text(target.with_suffix(".md"), as_markdown(rows, f"Table {name[5:]}. {caption}"))
        write_text(target.with_suffix(".tex"), as_latex(rows, caption, name))


def provenance(rows: list[dict[str, Any]], results: Results, experiment: str) -> str:
    """One sentence for the title: whose numbers stand in which columns."""
    words = f"paper: printed in arXiv 2101.03697v3; recount: by this companion; ours: experiment {experiment}."
    for dataset in results.other_datasets:
        kind = "demo" if dataset.startswith("demo") else "small"
        if not any(column.startswith(f"{kind}_top1") for column in rows[0]):
            continue
        words += f" {kind}: measured on {dataset}, which is not ImageNet; not a result of the paper."
    return words


def as_csv(rows: list[dict[str, Any]]) -> str:
    """CSV with LF; an empty cell is a missing value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        [
            {key: "" if value is None else value for key, value in (row | {"note": "; ".join(row["note"])}).items()}
            for row in rows
        ]
    )
    return text.getvalue()


@dataclass(frozen=True)
class Displayed:
    """A table as it is read: intervals beside their value, empty columns left out, constant texts said once."""

    headers: list[str]
    cells: list[list[str]]
    marks: list[list[int]]
    """The numbers of the notes of each row, from 1."""
    notes: list[str]
    shared: str
    """What is the same in every row."""


def displayed(rows: list[dict[str, Any]]) -> Displayed:
    """The headers, cells and notes of a table."""
    columns = [
        column
        for column in rows[0]
        if column != "note"
        and "_low_" not in column
        and "_high_" not in column
        and any(row[column] is not None for row in rows)
    ]
    constant = [
        column
        for column in columns
        if len(rows) > 1 and isinstance(rows[0][column], str) and len({row[column] for row in rows}) == 1
    ]
    columns = [column for column in columns if column not in constant]
    notes = list(dict.fromkeys(note for row in rows for note in row["note"]))
    return Displayed(
        [header(column) for column in columns],
        [[_cell(row, column) for column in columns] for row in rows],
        [sorted(notes.index(note) + 1 for note in row["note"]) for row in rows],
        notes,
        "; ".join(f"{header(column)}: {rows[0][column]}" for column in constant),
    )


def header(column: str) -> str:
    """`paper_top1_pct` as `paper top-1 (%)`."""
    words = column.replace("_", " ")
    for key, word in _WORDS.items():
        words = re.sub(rf"\b{key}\b(?!\))", word, words)
    return words


def _cell(row: dict[str, Any], column: str) -> str:
    value = row[column]
    if value is None:
        return "–"
    text = _number(column, value)
    stem = column
    for unit in _UNITS:
        stem = stem.removesuffix(unit)
    low, high = (row.get(f"{stem}_{side}{column[len(stem) :]}") for side in ("low", "high"))
    if low is not None and high is not None:
        text += f" [{_number(column, low)}, {_number(column, high)}]"
    return text


_FORMATS = {"_error": ".1e", "_points": "+.2f", "_pct": ".2f", "_m": ".2f", "flops_b": ".1f", "muls_b": ".1f"}
"""How numbers are written, by the ending of their column."""


def _number(column: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if column.startswith("paper_") and column.endswith(("_examples_per_s", "_ms")):
        return f"{value:.1f}"  # as it is printed
    if column.endswith("_examples_per_s"):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    if column.endswith("_tflops"):
        return f"{value:.2f}" if value >= 1 else f"{value:.3g}"
    form = next((form for ending, form in _FORMATS.items() if column.endswith(ending)), ".4g")
    return format(value, form)


def as_markdown(rows: list[dict[str, Any]], title: str) -> str:
    """A pipe table under its title, the notes as a numbered list."""
    table = displayed(rows)
    for line, marks in zip(table.cells, table.marks, strict=True):
        line[0] += f" [{', '.join(map(str, marks))}]" if marks else ""
    lines = [
        title + (f" In every row: {table.shared}." if table.shared else ""),
        "",
        "| " + " | ".join(table.headers) + " |",
        "| " + " | ".join("---:" if right else "---" for right in numeric_columns(table.cells)) + " |",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table.cells),
        "",
        *(f"{number}. {note}" for number, note in enumerate(table.notes, start=1)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def numeric_columns(cells: list[list[str]]) -> list[bool]:
    """Which columns hold numbers only, apart from their notes, and so stand to the right."""
    number = re.compile(r"–|[-+]?\d[\d.e+-]*( \[[^\]]*\])?")
    return [all(number.fullmatch(line[place]) for line in cells) for place in range(len(cells[0]))]


def as_latex(rows: list[dict[str, Any]], caption: str, name: str) -> str:
    """A booktabs table with lettered notes below; LaTeX numbers it, so the caption has no number.

    It needs the packages booktabs and graphicx (the table is scaled to the text width).
    """
    import pandas

    table = displayed(rows)
    cells = [[_escaped(cell) for cell in line] for line in table.cells]
    for line, marks in zip(cells, table.marks, strict=True):
        line[0] += f"\\textsuperscript{{{','.join(map(_letter, marks))}}}" if marks else ""
    frame = pandas.DataFrame(cells, columns=[_escaped(name) for name in table.headers])
    layout = "".join("r" if right else "l" for right in numeric_columns(table.cells))
    tabular = frame.style.hide(axis="index").to_latex(hrules=True, column_format=layout)
    shared = [f"In every row: {_escaped(table.shared)}."] if table.shared else []
    notes = [f"\\textsuperscript{{{_letter(n)}}}{_escaped(note)}" for n, note in enumerate(table.notes, start=1)]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table*}",
        f"\\caption{{{_escaped(caption)}}}",
        f"\\label{{{name}}}",
        "\\resizebox{\\textwidth}{!}{%",
        tabular.rstrip().removesuffix("%") + "}",
        *(f"\n\\par\\footnotesize {words}" for words in [*shared, *notes]),
        "\\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _letter(number: int) -> str:
    """`a` for 1, `z` for 26, `aa` for 27: the mark of a note."""
    before, place = divmod(number - 1, 26)
    return (_letter(before) if before else "") + "abcdefghijklmnopqrstuvwxyz"[place]


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


_ESCAPES = {letter: f"\\{letter}" for letter in "&%_#${}"} | {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "|": "\\textbar{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "–": "--",
}
