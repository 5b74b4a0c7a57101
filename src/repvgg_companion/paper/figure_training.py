"""The training curves: validation accuracy and training loss by epoch, one line a training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repvgg_companion.contract import read_rows
from repvgg_companion.paper.accuracies import history_path, prefix_of
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.figure_style import COLUMN_INCHES, OTHER_IMAGES_TINT, empty_panel, plain_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Group of networks: colour and line style, no two groups with the same of both. The ablations are single networks.
GROUPS: dict[str, tuple[str, Literal["-", "--", "-.", ":"]]] = {
    "A0–A2": ("#D55E00", "-"),
    "B0–B3": ("#0072B2", "-"),
    "g2": ("#56B4E9", "--"),
    "g4": ("#009E73", "-."),
    "D2se": ("#000000", ":"),
    "plain": ("#CC79A7", "-"),
    "identity-only": ("#882255", "--"),
    "1x1-only": ("#332288", ":"),
    "identity-without-bn": ("#E69F00", "--"),
    "post-addition-bn": ("#E69F00", "-."),
    "relu-in-branch": ("#E69F00", ":"),
    "diracnet": ("#7A4B00", "--"),
    "trivial-reparam": ("#7A4B00", "-."),
    "acb": ("#7A4B00", "-"),
    "residual-reorg": ("#7A4B00", ":"),
    "variants": ("#E69F00", "-"),
    "baselines": ("#8a8a8a", "-"),
}


@dataclass(frozen=True)
class Training:
    """One training and its epochs."""

    dataset: str
    model: str
    epochs: list[dict[str, Any]]

    @property
    def group(self) -> str:
        """The key of `GROUPS`."""
        if "_" in self.model:
            variation = self.model.split("_", 1)[1]
            return variation if variation in GROUPS else "variants"
        name = self.model.removeprefix("RepVGG-")
        if name == self.model:
            return "baselines"
        if name[2:] in ("g2", "g4"):
            return name[2:]
        return {"A": "A0–A2", "B": "B0–B3"}.get(name[0], "D2se")


def training(evidence: Evidence, histories: list[Path] | None) -> "Figure":
    """Curves of all trainings, one pair of panels for each dataset."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    runs = trainings(evidence, histories)
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    figure, grid = plt.subplots(
        2, max(1, len(datasets)), figsize=(COLUMN_INCHES * max(1, len(datasets)), 3.5), squeeze=False, sharex="col"
    )
    if not runs:
        for axes in grid[:, 0]:
            empty_panel(axes, "nothing was trained in this experiment")
        return figure
    for dataset, (top, bottom) in zip(datasets, grid.T, strict=True):
        own = [run for run in runs if run.dataset == dataset]
        for run in own:
            colour, line = GROUPS[run.group]
            epochs = [row["epoch"] for row in run.epochs]
            for axes, column in ((top, "val_top1_pct"), (bottom, "train_loss")):
                values = [row[column] for row in run.epochs]
                axes.plot(
                    epochs,
                    values,
                    color=colour,
                    linestyle=line,
                    linewidth=0.8,
                    alpha=0.85,
                    marker="." if len(epochs) < 12 else "",
                    markersize=3,
                )
        prefix = prefix_of(dataset)
        word = {"ours": "ImageNet", "demo": f"DEMO ({dataset}): not ImageNet"}.get(prefix, f"{dataset}: not ImageNet")
        top.set(title=f"{word}; {len(own)} trainings", ylabel=f"{'' if prefix == 'ours' else prefix + ' '}top-1 (%)")
        bottom.set(ylabel="training loss", xlabel="epoch")
        bottom.set_yscale("log")
        plain_ticks(bottom.yaxis)
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        if prefix != "ours":
            top.set_facecolor(OTHER_IMAGES_TINT)
            bottom.set_facecolor(OTHER_IMAGES_TINT)
    present = [name for name in GROUPS if any(run.group == name for run in runs)]
    handles = [Line2D([], [], color=GROUPS[name][0], linestyle=GROUPS[name][1], label=name) for name in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3 if len(handles) > 10 else 4, len(handles)))
    return figure


def trainings(evidence: Evidence, histories: list[Path] | None) -> list[Training]:
    """The trainings behind the given files, or else behind the rows of accuracy.csv; sorted by path."""
    if histories is None:
        rows = [row for row in evidence.results.rows("accuracy") if row["training_digest"]]
        histories = [path for path in {history_path(row) for row in rows} if path.exists()]
    found = []
    for path in sorted(histories):
        dataset, model = path.parts[-5], path.parts[-4]
        found.append(Training(dataset, model, read_rows(path, "history")))
    return found
