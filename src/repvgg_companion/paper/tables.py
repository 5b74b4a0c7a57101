"""The `tables` verb: write Tables 1 to 8 of the paper beside our results, each as CSV, Markdown and LaTeX.

The CSV holds every column; `table_display` says what Markdown and LaTeX leave out. `numbers.tex` holds our numbers as
macros.
"""

import argparse
from pathlib import Path

from repvgg_companion.files import csv_text, write_text
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.latex import as_latex, as_macros
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.table_display import TableRow, as_markdown
from repvgg_companion.paper.table_rows import TABLES, rows_of

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
NUMBERS = "numbers.tex"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `tables` verb."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--results", required=True, help="folder results/EXPERIMENT")
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--output", required=True, help="folder for table1.csv to table8.tex and numbers.tex")


def run(arguments: argparse.Namespace) -> None:
    """Write all eight tables in three formats, and the macros."""
    evidence = Evidence.shown(Facts(Path(arguments.paper)), Results(Path(arguments.results)))
    tables = {name: rows_of(evidence, name) for name in TABLES}
    for name, rows in tables.items():
        caption = f"{TITLES[name]}. {provenance(rows, evidence.results, arguments.experiment)}"
        target = Path(arguments.output, name)
        write_text(target.with_suffix(".csv"), as_csv(rows))
        write_text(target.with_suffix(".md"), as_markdown(rows, f"Table {name[5:]}. {caption}"))
        write_text(target.with_suffix(".tex"), as_latex(rows, caption, name))
    write_text(Path(arguments.output, NUMBERS), as_macros(tables, arguments.experiment))


def provenance(rows: list[TableRow], results: Results, experiment: str) -> str:
    """One sentence for the title: whose numbers stand in which columns."""
    filled = {column.partition("_")[0] for row in rows for column, value in row.items() if value is not None}
    words = "paper: printed in arXiv 2101.03697v3"
    words += f"; ours: measured here, experiment {experiment}." if "ours" in filled else "."
    if any(column.startswith(("small_time", "small_speed")) for column in rows[0]) and "small" in filled:
        words += f" small: measured here at a smaller size than the paper's, experiment {experiment}."
    for dataset in results.other_datasets:
        kind = "demo" if dataset.startswith("demo") else "small"
        if not any(column.startswith(f"{kind}_top1") for column in rows[0]):
            continue
        words += f" {kind}: measured on {dataset}, which is not ImageNet; not a result of the paper."
    return words


def as_csv(rows: list[TableRow]) -> str:
    """CSV with LF; an empty cell is a missing value."""
    joined = (row | {"note": "; ".join(row["note"])} for row in rows)
    return csv_text([list(rows[0]), *([row[name] for name in rows[0]] for row in joined)])
