"""The `figures` verb: draw the seven figures, each as PDF, SVG and PNG, with its points as CSV and its caption.

The metadata of every file hold the commit and the digest of the data. Results on other images than the paper's are in a
panel of their own that says so.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.contract import TABLES
from repvgg_companion.files import sha256_of_file, short_digest, write_text
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.figure_ablations import branches
from repvgg_companion.paper.figure_bars import figure3, table1
from repvgg_companion.paper.figure_captions import (
    MEASURED_ONLY,
    caption,
    images,
    panel_caption,
    panel_notes,
    write_caption,
)
from repvgg_companion.paper.figure_points import POINTS, write_points
from repvgg_companion.paper.figure_proxies import proxies_figure
from repvgg_companion.paper.figure_roofline import roofline
from repvgg_companion.paper.figure_scatter import figure1, figure1_panels, panel_figure
from repvgg_companion.paper.figure_style import mark_experiment, save, style
from repvgg_companion.paper.figure_training import training, trainings
from repvgg_companion.paper.latex import BIBLIOGRAPHY
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import FILES, Facts
from repvgg_companion.runs import commit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "figure1": "Accuracy against speed (Figure 1)",
    "figure3": "Live feature maps of a residual block and of plain layers (Figure 3)",
    "table1": "Computational density by kernel size (Table 1)",
    "branches": "Ablations of the block (Tables 6 and 7)",
    "proxies": "Speed against FLOPs and Wino MULs",
    "roofline": "Roofline: measured ceilings, and each network's share of the roofline",
    "training": "Training curves",
}


@dataclass(frozen=True)
class FiguresRequest:
    """Which experiment to draw beside the paper, where to, and which figures; `histories` as in `trainings`."""

    experiment: str
    evidence: Evidence
    output: Path
    names: tuple[str, ...]
    histories: list[Path] | None = None
    commit: str = ""
    """What the files name as their commit; empty for that of this checkout."""


PANELS = "panels"
"""The folder of the single panels of Figure 1."""
UNMARKED = ("figure3", "table1", "proxies", "roofline")
"""Figures of networks at full width: they have no panel of other images that would say so."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `figures` verb."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--results", required=True, help="folder results/EXPERIMENT")
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--histories", nargs="*", help="history CSVs (default: those of the rows of accuracy.csv)")
    parser.add_argument("--output", required=True, help="folder paper_figures/EXPERIMENT")
    parser.add_argument("--commit", default="", help="written into the files instead of this checkout's commit")
    parser.add_argument("--only", nargs="+", choices=list(TITLES), help="draw these figures (default: all)")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write every figure."""
    evidence = Evidence.shown(Facts(Path(arguments.paper)), Results(Path(arguments.results)))
    histories = None if arguments.histories is None else [Path(path) for path in arguments.histories]
    names = tuple(arguments.only or TITLES)
    output = Path(arguments.output)
    write_figures(FiguresRequest(arguments.experiment, evidence, output, names, histories, arguments.commit))


def write_figures(request: FiguresRequest) -> None:
    """Draw the figures; write each as PDF, SVG and PNG, its points as CSV, and its caption as Markdown and LaTeX.

    `references.bib` and the panels of Figure 1 as files of their own come with them. Where nothing was trained there
    are no training curves.
    """
    drawings: dict[str, Callable[[Evidence], Figure]] = {
        "figure1": figure1,
        "figure3": figure3,
        "table1": table1,
        "branches": branches,
        "proxies": proxies_figure,
        "roofline": roofline,
        "training": partial(training, histories=request.histories),
    }
    evidence = request.evidence
    digest = data_digest(evidence.facts, evidence.results)
    drawn_from = (request.commit or commit(), digest)
    for name in request.names:
        if name == "training" and not trainings(evidence, request.histories):
            continue
        with style():
            title = f"{TITLES[name]}; experiment {request.experiment}{other_images(evidence.results)}"
            figure = drawings[name](evidence)
            if name in UNMARKED and evidence.results.other_datasets:
                mark_experiment(figure, request.experiment, evidence.results.other_datasets)
            save(figure, request.output / name, title, *drawn_from)
        write_points(request.output / f"{name}.csv", list(POINTS[name](evidence, request.histories)))
        words = caption(name, evidence, request.histories)
        label = f"repvgg-{request.experiment}-{name}"
        write_caption(request.output / name, words, label, name not in MEASURED_ONLY)
    if "figure1" in request.names:
        _write_panels(request, drawn_from)
    text = BIBLIOGRAPHY.format(experiment=request.experiment, commit=drawn_from[0], digest=digest)
    write_text(request.output / "references.bib", text)


def _write_panels(request: FiguresRequest, drawn_from: tuple[str, str]) -> None:
    """Write the panels of Figure 1, also one that says why it is empty, and remove those of an earlier drawing."""
    folder = request.output / PANELS
    written = set()
    for panel in figure1_panels(request.evidence):
        stem = folder / f"figure1-{panel.title[1]}"
        with style():
            save(panel_figure(panel), stem, f"{panel.title}; experiment {request.experiment}", *drawn_from)
        words = f"Accuracy against speed, panel {panel_caption(panel)}{panel_notes([panel])}"
        words += images(request.evidence) if panel.tint else ""
        printed = any("paper/" in point.source for point in panel.points)
        write_caption(stem, words, f"repvgg-{request.experiment}-{stem.name}", printed)
        written.add(stem)
    for path in folder.glob("figure1-*"):
        if path.with_suffix("") not in written:
            path.unlink()


def other_images(results: Results) -> str:
    """What the title adds where accuracies of other images are drawn."""
    if not results.other_datasets:
        return ""
    return f" ({', '.join(results.other_datasets)}: not ImageNet, no result of the paper)"


def data_digest(facts: Facts, results: Results) -> str:
    """8 digits over all tables that the figures are drawn from."""
    paths = [Path(facts.folder) / name for name in sorted(FILES.values())]
    paths += sorted(
        path for table in TABLES if table != "claims" for path in Path(results.folder).glob(f"**/{table}.csv")
    )
    return short_digest({path.name: sha256_of_file(path) for path in paths if path.exists()})
