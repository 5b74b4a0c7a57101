"""The pictures of the ledger, three and one a small study, as files with provenance and as SVG texts for the page."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.evidence.accuracy_picture import accuracy_figure, accuracy_points
from repvgg_companion.evidence.figure1_others import figure1_others, others_panels
from repvgg_companion.evidence.from_studies import Study
from repvgg_companion.evidence.picture_points import difference_points, others_points, speed_up_points, study_points
from repvgg_companion.evidence.sources import Sources
from repvgg_companion.evidence.speedups_picture import speed_ups, speedups_figure
from repvgg_companion.evidence.study_picture import study_figure
from repvgg_companion.evidence.third_party import ACCURACY_FILE, SPEED_FILE, TIMM_FILE
from repvgg_companion.files import sha256_of_file, short_digest
from repvgg_companion.paper.figure_captions import write_caption
from repvgg_companion.paper.figure_points import write_points
from repvgg_companion.paper.figure_style import freeze_layout, save, style
from repvgg_companion.paper.printed import FILES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "speedups": "Do the speed-ups last? The paper's speed ratios on every device and engine",
    "accuracy-holds": "Does the accuracy hold? Every re-evaluation and retraining, in points from the print",
    "figure1-others": "Figure 1 on devices that others measured: the printed accuracy against timm's published speeds",
}


_CAPTIONS = {
    "speedups": (
        "The paper's nine ratios of speed: images/s of the first network over those of the second, each at its own "
        "input size. Grey: printed for a GTX 1080 Ti. Filled: measured here, with 95 % intervals over the rounds of "
        "one run. Open: published by timm for other devices, without intervals."
    ),
    "accuracy-holds": (
        "Top-1 of released weights that others evaluated, and of networks trained again, less the printed top-1 of the "
        "same recipe, in points, on ImageNet's validation images. Lines: 95 % intervals (Wilson) for new images, if "
        "their number of images is known."
    ),
    "figure1-others": (
        "The printed top-1 against images/s that timm published for other devices; device, engine, precision and batch "
        "are in the titles."
    ),
}
_STUDY_CAPTION = (
    "Small study {name}, images: {dataset}, {trainings} trainings. (a) Differences of top-1 in points: the paper's and "
    "ours over seeds with 95 % intervals (Welch); open: not resolved. (b) Validation top-1 by epoch, mean over seeds "
    "with its 95 % interval. No result of the paper."
)


def captions(studies: Sequence[Study]) -> dict[str, str]:
    """The caption of each picture by its name."""
    of_studies = {
        study.name: _STUDY_CAPTION.format(name=study.name, dataset=study.rows[0]["dataset"], trainings=len(study.rows))
        for study in studies
    }
    return _CAPTIONS | of_studies


def titles(studies: Sequence[Study]) -> dict[str, str]:
    """The title of each picture by its name."""
    of_studies = {
        study.name: f"Small study {study.name}: the paper's differences and ours over {len(study.rows)} trainings"
        for study in studies
    }
    return TITLES | of_studies


_POINTS = {"speedups": speed_up_points, "accuracy-holds": difference_points, "figure1-others": others_points}
"""The points of each picture, for the CSV file beside it."""


def draw(sources: Sources, folder: Path | None, commit: str) -> dict[str, str]:
    """SVG texts by title; also files that name `commit` if `folder` is set."""
    digest = data_digest(sources)
    drawings: dict[str, Callable[[], Figure]] = {
        "speedups": lambda: speedups_figure(sources.facts, list(speed_ups(sources.speeds, sources.devices))),
        "accuracy-holds": lambda: accuracy_figure(list(accuracy_points(sources.facts, sources.published))),
        "figure1-others": lambda: figure1_others(others_panels(sources.facts, sources.speeds), sources.speeds),
    }
    drawings |= {study.name: partial(study_figure, study) for study in sources.studies}
    studies = {study.name: study for study in sources.studies}
    texts = {}
    words = captions(sources.studies)
    for name, title in titles(sources.studies).items():
        with style():
            figure = drawings[name]()
            if folder is not None:
                save(figure, folder / name, title, commit, digest)
                write_caption(folder / name, words[name], f"repvgg-reference-{name}")
                svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
                write_points(
                    folder / f"{name}.csv",
                    list(_POINTS[name](sources) if name in _POINTS else study_points(studies[name])),
                )
                texts[title] = svg.replace(f"commit {commit}; data {digest}", f"data {digest}")
            else:
                texts[title] = _svg_text(figure, title, digest)
    return texts


def _svg_text(figure: "Figure", title: str, digest: str) -> str:
    freeze_layout(figure)
    stream = io.StringIO()
    metadata = {"Title": title, "Description": f"data {digest}", "Creator": "repvgg-companion", "Date": None}
    figure.savefig(stream, format="svg", metadata=metadata)
    return stream.getvalue()


def data_digest(sources: Sources) -> str:
    """8 digits over the printed and published tables and over the rows of the devices."""
    paper = Path(sources.facts.folder)
    paths = [paper / name for name in (*FILES.values(), ACCURACY_FILE, SPEED_FILE, TIMM_FILE)]
    paths += sorted(Path(sources.devices.folder).glob("*/*.csv"))
    paths += [study.results.folder / "accuracy.csv" for study in sources.studies]
    return short_digest({"/".join(path.parts[-2:]): sha256_of_file(path) for path in paths})
