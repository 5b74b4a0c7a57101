"""The pictures of the ledger, three and one a small study, as files with provenance and as SVG texts for the page."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.evidence.accuracy_picture import accuracy_figure, accuracy_points
from repvgg_companion.evidence.figure1_others import figure1_others, others_panels
from repvgg_companion.evidence.from_studies import Study
from repvgg_companion.evidence.picture_points import difference_points, others_points, speed_up_points, study_points
from repvgg_companion.evidence.sources import Sources
from repvgg_companion.evidence.speedups_picture import speed_ups, speedups_caption, speedups_figure
from repvgg_companion.evidence.study_picture import study_figure
from repvgg_companion.evidence.third_party import ACCURACY_FILE, SPEED_FILE, TIMM_FILE
from repvgg_companion.files import sha256_of_file, short_digest
from repvgg_companion.paper.figure_captions import write_caption
from repvgg_companion.paper.figure_points import FigurePoint, write_points
from repvgg_companion.paper.figure_style import freeze_layout, save, style
from repvgg_companion.paper.printed import FILES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """One picture of the ledger: its words, how it is drawn, and the points that the CSV file beside it holds."""

    title: str
    caption: Callable[[Sources], str]
    draw: Callable[[Sources], "Figure"]
    points: Callable[[Sources], Iterable[FigurePoint]]


PICTURES = {
    "speedups": Picture(
        "Do the speed-ups last? The paper's speed ratios on every device and engine",
        lambda sources: speedups_caption(list(speed_ups(sources.speeds, sources.devices))),
        lambda sources: speedups_figure(sources.facts, list(speed_ups(sources.speeds, sources.devices))),
        speed_up_points,
    ),
    "accuracy-holds": Picture(
        "Does the accuracy hold? Every re-evaluation and retraining, in points from the print",
        lambda _: (
            "Top-1 of released weights that others evaluated, and of networks trained again, less the printed top-1 of "
            "the same recipe, in points, on ImageNet's validation images. Lines: 95 % intervals (Wilson) for new "
            "images, if their number of images is known."
        ),
        lambda sources: accuracy_figure(list(accuracy_points(sources.facts, sources.published))),
        difference_points,
    ),
    "figure1-others": Picture(
        "Figure 1 on devices that others measured: the printed accuracy against timm's published speeds",
        lambda _: (
            "The printed top-1 against images/s that timm published for other devices; device, engine, precision and "
            "batch are in the titles."
        ),
        lambda sources: figure1_others(others_panels(sources.facts, sources.speeds), sources.speeds),
        others_points,
    ),
}


def _of_study(study: Study) -> Picture:
    trainings = len(study.rows)
    return Picture(
        f"Small study {study.name}: the paper's differences and ours over {trainings} trainings",
        lambda _: (
            f"Small study {study.name}, images: {study.rows[0]['dataset']}, {trainings} trainings. (a) Differences of "
            "top-1 in points: the paper's and ours over seeds with 95 % intervals (Welch); open: not resolved. (b) "
            "Validation top-1 by epoch, mean over seeds with its 95 % interval. No result of the paper."
        ),
        lambda _: study_figure(study),
        lambda _: study_points(study),
    )


def pictures(studies: Sequence[Study]) -> dict[str, Picture]:
    """The pictures by their names: the three of the ledger, and one of each study."""
    return PICTURES | {study.name: _of_study(study) for study in studies}


def draw(sources: Sources, folder: Path | None, commit: str) -> dict[str, str]:
    """SVG texts by title; also files that name `commit` if `folder` is set."""
    digest = data_digest(sources)
    texts = {}
    for name, picture in pictures(sources.studies).items():
        with style():
            figure = picture.draw(sources)
            if folder is None:
                texts[picture.title] = _svg_text(figure, picture.title, digest)
                continue
            save(figure, folder / name, picture.title, commit, digest)
            write_caption(folder / name, picture.caption(sources), f"repvgg-reference-{name}")
            write_points(folder / f"{name}.csv", list(picture.points(sources)))
            svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
            texts[picture.title] = svg.replace(f"commit {commit}; data {digest}", f"data {digest}")
    return texts


def _svg_text(figure: "Figure", title: str, digest: str) -> str:
    freeze_layout(figure)
    stream = io.StringIO()
    metadata = {"Title": title, "Description": f"data {digest}", "Creator": "repvgg-companion", "Date": None}
    figure.savefig(stream, format="svg", metadata=metadata)
    return stream.getvalue()


def data_digest(sources: Sources) -> str:
    """8 digits over the printed and published tables and over the rows of the devices."""
    paper = sources.facts.folder
    paths = [paper / name for name in (*FILES.values(), ACCURACY_FILE, SPEED_FILE, TIMM_FILE)]
    paths += sorted(sources.devices.folder.glob("*/*.csv"))
    paths += [study.results.folder / "accuracy.csv" for study in sources.studies]
    return short_digest({"/".join(path.parts[-2:]): sha256_of_file(path) for path in paths})
