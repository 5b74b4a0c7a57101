"""The training curves: a small panel for each network, with validation accuracy and training loss by epoch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import counted
from repvgg_companion.paper.accuracies import history_path, prefix_of
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.figure_style import COLUMN_INCHES, OTHER_IMAGES_TINT, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "val_top1_pct": ("top-1 (%)", {"color": "#D55E00", "linestyle": "-"}),
    "train_loss": ("training loss", {"color": "#222222", "linestyle": (0, (2, 1)), "linewidth": 0.7}),
}
"""Columns of a history with their label and line, which differ in grey as well."""
SINGLE: dict[str, dict[str, Any]] = {"val_top1_pct": {"marker": "."}, "train_loss": {"marker": "x", "markersize": 4}}
"""The marks of a training of one epoch, which has no lines."""


@dataclass(frozen=True)
class Training:
    """One training and its epochs."""

    dataset: str
    model: str
    epochs: list[dict[str, Any]]
    source: str = ""


def training(evidence: Evidence, histories: list[Path] | None) -> "Figure":
    """Curves of all trainings, a panel for each network of each dataset; the accuracy axes are alike."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    runs = trainings(evidence, histories)
    networks = list(dict.fromkeys((run.dataset, run.model) for run in runs))
    count = -(-len(networks) // COLUMNS)
    width = min(COLUMNS, len(networks))
    figure, grid = plt.subplots(
        count, width, figsize=(COLUMN_INCHES, 0.55 + 0.85 * count), squeeze=False, sharex=True, sharey=True
    )
    losses = [row["train_loss"] for run in runs for row in run.epochs]
    for number, axes in enumerate(grid.flat):
        if number >= len(networks):
            axes.set_axis_off()
            continue
        own = [run for run in runs if (run.dataset, run.model) == networks[number]]
        right = axes.twinx()
        right.set_ylim(0, 1.08 * max(losses))
        right.spines["right"].set_visible(True)
        right.grid(visible=False)
        right.tick_params(labelright=(number + 1) % width == 0 or number + 1 == len(networks))
        _curves(axes, right, own)
        if number + width >= len(networks):
            axes.tick_params(labelbottom=True)
    figure.suptitle(wrapped(_title(runs), 56), x=0.02, ha="left", fontsize=7)
    single = all(len(run.epochs) == 1 for run in runs)
    handles = [
        Line2D([], [], label=f"{label}, {side}", **line | ({"linestyle": "", **SINGLE[column]} if single else {}))
        for side, (column, (label, line)) in zip(("left", "right"), CURVES.items(), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, title="horizontal: epoch", title_fontsize=7)
    return figure


def _title(runs: list[Training]) -> str:
    """Which images, and how many trainings: for a demo also on the figure itself."""
    words = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        prefix = prefix_of(dataset)
        kind = {"ours": "ImageNet", "demo": f"DEMO ({dataset}): not ImageNet"}.get(prefix, f"{dataset}: not ImageNet")
        words.append(f"{kind}; {counted(sum(run.dataset == dataset for run in runs), 'training')}")
    return "; ".join(words)


def _curves(left: "Axes", right: "Axes", runs: list[Training]) -> None:
    from matplotlib.ticker import MaxNLocator

    for run in runs:
        for axes, (column, (_, line)) in zip((left, right), CURVES.items(), strict=True):
            points = [(row["epoch"], row[column]) for row in run.epochs if row[column] is not None]
            marks = {"marker": "." if len(points) < 12 else "", "markersize": 3}
            axes.plot(*zip(*points, strict=True), **line | marks | (SINGLE[column] if len(points) == 1 else {}))
    left.set_title(wrapped(runs[0].model.removeprefix("RepVGG-").replace("_", " "), 15), pad=2)
    left.set_ylim(0, 104)
    left.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
    if prefix_of(runs[0].dataset) != "ours":
        left.set_facecolor(OTHER_IMAGES_TINT)


def trainings(evidence: Evidence, histories: list[Path] | None) -> list[Training]:
    """The trainings behind the given files, or else behind the rows of accuracy.csv; sorted by path."""
    if histories is None:
        rows = [row for row in evidence.results.rows("accuracy") if row["training_digest"]]
        histories = [path for path in {history_path(row) for row in rows} if path.exists()]
    found = []
    for path in sorted(histories):
        dataset, model, digest, seed = path.parts[-5:-1]
        source = f"history.csv of {dataset} {model} {digest} {seed}"
        found.append(Training(dataset, model, read_rows(path, "history"), source))
    return found
