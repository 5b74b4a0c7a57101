"""The ablations of Tables 6 and 7 as a figure: printed accuracies, and ours with intervals and single seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repvgg_companion.paper.accuracies import Accuracy, other_accuracies, summarised
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.figure_style import (
    COLUMN_INCHES,
    OTHER_IMAGES_TINT,
    OURS_COLOUR,
    PAPER_COLOUR,
    wrapped,
)
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.inference import LEAST_SEEDS
from repvgg_companion.paper.table_rows import ablations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Dot:
    """One accuracy in percent: its 95 % interval and the values of single seeds, if any."""

    top1: float
    interval: tuple[float, float] | None = None
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class AblationColumn:
    """One column of panels of the ablation figure: whose accuracies, and how they are marked."""

    title: str
    label: str
    accuracies: dict[str, Accuracy]
    tint: str | None = None


def branches(evidence: Evidence) -> "Figure":
    """Accuracies of Tables 6 and 7: printed, and ours with 95 % intervals and single seeds."""
    import matplotlib.pyplot as plt

    tables, printed = _tables(evidence), printed_ablations(evidence)
    columns = ablation_columns(evidence)
    height = sum(0.235 * len(names) + 0.45 for names in tables.values()) + 0.55
    figure, grid = plt.subplots(
        2,
        1 + len(columns),
        figsize=(COLUMN_INCHES, height),
        sharex="col",
        sharey="row",
        squeeze=False,
        height_ratios=[len(names) + 1 for names in tables.values()],
    )
    for (table, names), row in zip(tables.items(), grid, strict=True):
        _dots(row[0], names, {model: Dot(value) for model, value in printed[table].items()}, PAPER_COLOUR)
        row[0].set_title(f"{table}, printed")
        row[0].margins(x=0.22)
        for axes, column in zip(row[1:], columns, strict=True):
            ours = {
                model: Dot(part.top1, (part.low, part.high), part.seeds)
                for model, part in column.accuracies.items()
                if model in names
            }
            _dots(axes, names, ours, OURS_COLOUR)
            axes.set_title(column.title)
            axes.margins(x=0.22)
            if column.tint:
                axes.set_facecolor(column.tint)
    grid[1][0].set_xlabel("top-1 (%)\nImageNet, 120 epochs")
    for axes, column in zip(grid[1][1:], columns, strict=True):
        axes.set_xlabel(f"{column.label}\n95 % over {seeds_or_images(column.accuracies)}")
    return figure


def _tables(evidence: Evidence) -> dict[str, dict[str, str]]:
    """The networks of both tables, with the names that the figure gives them."""
    words = {("no", "no"): "no branch", ("yes", "no"): "identity", ("no", "yes"): "1x1", ("yes", "yes"): "both"}
    return {
        "Table 6": {
            row["model"]: words[row["identity_branch"], row["conv1x1_branch"]] for row in evidence.facts.table("table6")
        },
        "Table 7": {
            row["model"]: row["variant"].removesuffix(" reparam")
            for row in evidence.facts.table("table7")
            if row["printed_in"] == "table"
        },
    }


def printed_ablations(evidence: Evidence) -> dict[str, dict[str, float]]:
    """The printed top-1 in percent of each network of the two tables."""
    return {
        table: {model: evidence.facts.printed(Quantity("top1", model, ("120-epochs",))) for model in names}
        for table, names in _tables(evidence).items()
    }


def seeds_or_images(accuracies: dict[str, Accuracy]) -> str:
    """Over what the intervals of a column generalise."""
    counts = sorted({len(accuracy.seeds) for accuracy in accuracies.values()})
    least = [count for count in counts if count >= LEAST_SEEDS]
    words = [f"{'/'.join(map(str, least))} seeds"] if least else []
    if len(least) < len(counts):
        words.append("images")
    return " or ".join(words)


def several_seeds(one: Accuracy | Dot) -> bool:
    """Whether single seeds are drawn beside the mean."""
    return len(one.seeds) > 1


def ablation_columns(evidence: Evidence) -> list[AblationColumn]:
    """The columns beside the printed one: accuracies on the paper's images, and on others; one setting in each."""
    names = ablations(evidence.facts)
    found = evidence.comparable_accuracies([Quantity("top1", model, ("120-epochs",)) for model in sorted(names)])
    ours = {quantity.subject: summarised(rows) for quantity, rows in found.items()}
    columns = []
    if ours:
        columns.append(AblationColumn("measured here", "top-1 (%)\nImageNet, 120 epochs", ours))
    for prefix, other in other_accuracies(evidence.results, names).items():
        own = other.accuracies
        if len(own) > 1:
            first = next(iter(own.values()))  # all are of one network, recipe and protocol
            dataset, network = first.network.split(", ", 1)
            word = "DEMO" if prefix == "demo" else "small"  # longer words would be cut off
            label = f"{prefix} top-1 (%)\n" + wrapped(f"{dataset}, {network}; {first.recipe}", 21)
            columns.append(AblationColumn(f"{word}: not ImageNet", label, own, OTHER_IMAGES_TINT))
    return columns


def _dots(axes: "Axes", names: dict[str, str], values: Mapping[str, Dot], colour: str) -> None:
    import seaborn

    order = list(names.values())
    rows = [(names[model], seed) for model, dot in values.items() if several_seeds(dot) for seed in dot.seeds]
    if rows:
        places = {"x": [seed for _, seed in rows], "y": [name for name, _ in rows]}
        seaborn.stripplot(**places, order=order, ax=axes, size=2, color="#b0b0b0", jitter=False, zorder=2)
    for model, dot in values.items():
        top1, interval, place = dot.top1, dot.interval, order.index(names[model])
        if interval:
            axes.hlines(place, *interval, color=colour, linewidth=0.9, zorder=3)
        axes.plot(top1, place, color=colour, marker="o", markersize=3.5, zorder=4)
        digits = 2 if interval is None or interval[1] - interval[0] < 1.5 else 1
        above: dict[str, Any] = {"ha": "center", "va": "bottom", "textcoords": "offset points"}
        axes.annotate(f"{top1:.{digits}f}", (top1, place), (0, 2.5), **above)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.5, -0.75)
    axes.set(xlabel="", ylabel="")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
