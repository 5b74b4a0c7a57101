"""The `ledger` verb: every claim of the paper with all evidence, as CSV, Markdown, one HTML page and three pictures."""

import argparse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from repvgg_companion.evidence.evidence_classes import CLASSES, PRINTED
from repvgg_companion.evidence.from_counts import counted_row
from repvgg_companion.evidence.from_devices import device_rows
from repvgg_companion.evidence.from_others import accuracy_evidence, conversion_row, speed_rows
from repvgg_companion.evidence.from_print import Print, printed_row
from repvgg_companion.evidence.from_studies import Study, study_rows
from repvgg_companion.evidence.ledger_columns import write_dictionary, write_ledger
from repvgg_companion.evidence.ledger_page import page
from repvgg_companion.evidence.ledger_text import markdown
from repvgg_companion.evidence.pictures import draw
from repvgg_companion.evidence.sources import Sources, read_sources
from repvgg_companion.evidence.study_picture import network_rows, pair_rows
from repvgg_companion.evidence.summaries import require_evidence
from repvgg_companion.files import write_text
from repvgg_companion.paper.latex import as_latex
from repvgg_companion.paper.printed import FILES
from repvgg_companion.paper.table_display import as_markdown
from repvgg_companion.paper.tables import as_csv
from repvgg_companion.paper.verdicts import NOT_TESTED, OPEN
from repvgg_companion.runs import commit

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `ledger` verb."""
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts and of what others published")
    parser.add_argument("--devices", default="results/devices", help="folder with one folder per device")
    parser.add_argument("--studies", default="results/studies", help="folder with one folder a small study")
    parser.add_argument("--output", default="results/reference", help="folder of ledger.csv, .md, .html and dictionary")
    parser.add_argument("--figures", help="folder of the three pictures (default: draw them for the page only)")
    parser.add_argument("--commit", default="", help="written into the pictures instead of this checkout's commit")


def run(arguments: argparse.Namespace) -> None:
    """Write the ledger and print how many claims have which evidence."""
    sources = read_sources(Path(arguments.paper), Path(arguments.devices), Path(arguments.studies))
    output, figures = Path(arguments.output), Path(arguments.figures) if arguments.figures else None
    # The pictures need no torch, so they are drawn on another core meanwhile.
    with ProcessPoolExecutor(1, get_context("spawn")) as other_core:
        pictures = other_core.submit(draw, sources, figures, arguments.commit or commit())
        rows = ledger_rows(sources)
        drawn = pictures.result()
    claims = sources.facts.table("claims")
    write_ledger(output / "ledger.csv", rows)
    write_dictionary(output / "ledger-dictionary.csv")
    write_text(output / "ledger.md", markdown(claims, rows))
    write_text(output / "ledger.html", page(claims, rows, drawn))
    for study in sources.studies:
        write_study_tables(study, output / study.name)
    print(counts(rows, len(claims)))


def write_study_tables(study: Study, stem: Path) -> None:
    """Write the pairs of a study as CSV, Markdown (with the networks) and LaTeX."""
    pairs = pair_rows(study)
    caption = (f"Small study {study.name} ({study.setting}; not ImageNet): differences of top-1 in points with Welch's "
               f"95 % intervals, p values corrected together (Holm)")  # fmt: skip
    write_text(stem.with_suffix(".csv"), as_csv(pairs))
    write_text(stem.with_suffix(".tex"), as_latex(pairs, f"{caption}.", study.name))
    networks = as_markdown(network_rows(study), "Top-1 of the networks with 95 % intervals over the seeds.")
    write_text(stem.with_suffix(".md"), f"{as_markdown(pairs, caption + '.')}\n{networks}")


def ledger_rows(sources: Sources) -> list[Row]:
    """All rows, in the order of the claims and of the classes.

    Raises CompanionError for a claim that no class can speak about and that has no stated reason for it.
    """
    claims = sources.facts.table("claims")
    authors = [row for row in sources.published if row.by_authors]
    printed = Print(sources.facts, sources.empty.results, name="the paper", by_authors=authors)
    order = {one.name: place for place, one in enumerate(CLASSES)}
    rows: list[Row] = []
    for claim in claims:
        found = [*printed_row(claim, printed), *counted_row(claim, sources.empty)]
        found += device_rows(claim, sources.facts, sources.devices)
        if "check(conversion-keeps-function)" in claim["condition"]:
            found += conversion_row(claim, sources.accuracies)
        found += accuracy_evidence(claim, sources.accuracies)
        found += speed_rows(claim, sources.speeds)
        found += study_rows(claim, sources.studies)
        rows += sorted(found, key=lambda row: order[row["evidence_class"]])
    require_evidence(claims, rows, str(sources.facts.folder / FILES["claims"]))
    return rows


def counts(rows: Sequence[Row], n_claims: int) -> str:
    """How many claims have a verdict on the number, from any class and from other classes than the print."""
    decided = [row for row in rows if row["verdict_number"] not in (NOT_TESTED, OPEN)]
    beyond = {row["id"] for row in decided if row["evidence_class"] != PRINTED.name}
    by_class = Counter(row["evidence_class"] for row in rows)
    lines = [f"{name}: {number} rows" for name, number in by_class.items()]
    n_decided = len({row["id"] for row in decided})
    lines.append(
        f"{n_decided} of {n_claims} claims have a verdict on the number, {len(beyond)} of them from other evidence "
        "than the paper's own tables."
    )
    return "\n".join(lines)
