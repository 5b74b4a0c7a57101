"""In: facts and results. Out: Figure 3 (live feature maps), Table 1 as bars, and the ablations of Tables 6 and 7."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repvgg_companion.paper.accuracies import Accuracy, other_accuracies, summarised
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import has_paper_shape
from repvgg_companion.paper.figure_style import (
    BLUE,
    COLUMN_INCHES,
    OTHER_IMAGES_TINT,
    OURS_COLOUR,
    PAPER_COLOUR,
    PAPER_DEVICE,
    empty_panel,
    wrapped,
)
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.inference import LEAST_SEEDS
from repvgg_companion.paper.named_checks import block_maps
from repvgg_companion.paper.ours import Row
from repvgg_companion.paper.table_rows import ablations, kernel_row_order
from repvgg_companion.speed.measure_memory import WHOLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Figure 3, in units of the block's input: before the block, on both sides of its inner ReLU, after the addition.
FIGURE3_POINTS = ("input", "before\nReLU", "after\nReLU", "after the\naddition")
FIGURE3_PAPER = {"residual": (1, 2, 2, 1), "plain": (1, 1, 1, 1)}


def table1(evidence: Evidence) -> "Figure":
    """Computational density by kernel size: the printed bars, and ours on the device of the experiment."""
    import matplotlib.pyplot as plt

    facts = evidence.facts.table("table1")
    ours = _kernel_rows(evidence)
    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 1.9))
    sizes = [f"{fact['kernel_size']}x{fact['kernel_size']}" for fact in facts]
    left.bar(sizes, [fact["density_tflops"] for fact in facts], color=PAPER_COLOUR, width=0.62)
    for place, fact in enumerate(facts):
        left.annotate(f"{fact['density_tflops']:.2f}", (place, fact["density_tflops"]), ha="center", va="bottom",
                      fontsize=6, xytext=(0, 1), textcoords="offset points")  # fmt: skip
    left.set(title=f"(a) paper: {PAPER_DEVICE.split(',')[0]}, fp32", xlabel="kernel size", ylabel="density (TFLOPS)")
    left.margins(y=0.14)
    left.annotate("printed; its time\ngives 10.05", (2, 12.8), (2.45, 25), fontsize=5.5, ha="center", color="#555555",
                  arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#8a8a8a"})  # fmt: skip
    left.grid(axis="x", visible=False)
    if not ours:
        right.set_title("(b) measured here")
        empty_panel(right, "no kernel sizes were\nmeasured")
        return figure
    places = range(len(ours))
    values = [row["tflops"] for row in ours]
    spread = [
        [row["tflops"] * (1 - row["time_ms"] / row["high_ms"]) for row in ours],
        [row["tflops"] * (row["time_ms"] / row["low_ms"] - 1) for row in ours],
    ]
    right.bar(places, values, color=OURS_COLOUR, width=0.62, yerr=spread, error_kw={"linewidth": 0.7})
    for place, row in zip(places, ours, strict=True):
        top = row["tflops"] * row["time_ms"] / row["low_ms"]
        right.annotate(f"{row['tflops']:.3g}", (place, top), ha="center", va="bottom", fontsize=6, xytext=(0, 1),
                       textcoords="offset points")  # fmt: skip
    right.set_xticks(places, [f"{row['kernel_size']}x{row['kernel_size']}" for row in ours])
    first = ours[0]
    smaller = "" if has_paper_shape(first) else "smaller shape: "
    shape = f"{smaller}{first['channels']} channels, batch {first['batch_size']}, {first['resolution_px']} px, "
    shape += f"{first['n_samples']} samples"
    right.set(title=f"(b) here: {first['precision']}", xlabel="kernel size")
    right.margins(y=0.14)
    figure.supxlabel(f"(a) 2048 channels, batch 32, 56 px, 10 runs\n(b) {first['device']}\n{shape}", fontsize=6)
    right.grid(axis="x", visible=False)
    return figure


def _kernel_rows(evidence: Evidence) -> list[Row]:
    """The rows of one run and setting, the paper's shape and fp32 first."""
    groups: dict[tuple, list[Row]] = {}
    for row in evidence.results.rows("kernel_size"):
        if row["tflops"] is not None:  # a row without it says why nothing was measured
            groups.setdefault(kernel_row_order(row), []).append(row)
    return sorted(groups[min(groups)], key=lambda row: row["kernel_size"]) if groups else []


def figure3(evidence: Evidence) -> "Figure":
    """Live feature maps at the four points of the paper's Figure 3, printed and measured; peaks of whole networks."""
    import matplotlib.pyplot as plt

    rows = evidence.results.rows("memory")
    peaks = _of_one_run([row for row in rows if row["layer"] == WHOLE and row["peak_mib"] is not None])
    count = len({row["model"] for row in peaks})
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(COLUMN_INCHES, 2.5 + 0.33 * max(1, count)), height_ratios=(1.6, 0.5 + 0.33 * max(1, count))
    )
    top.set(title="(a) feature maps alive between operators", ylabel="in units of the input")
    for kind, colour, marker in (("residual", BLUE, "s"), ("plain", OURS_COLOUR, "o")):
        top.plot(range(4), FIGURE3_PAPER[kind], color=colour, marker=marker, label=f"{kind}, paper", markersize=6,
                 markerfacecolor="white")  # fmt: skip
        measured = block_maps(rows, kind)
        if measured:
            top.plot(range(len(measured)), measured, color=colour, marker=marker, ls="", label=f"{kind}, measured",
                     markersize=3)  # fmt: skip
    top.set_xticks(range(4), FIGURE3_POINTS)
    top.set(ylim=(0, 2.6), yticks=(0, 1, 2))
    top.legend(ncols=2, loc="lower center")
    _peaks(bottom, peaks)
    return figure


def _of_one_run(rows: list[Row]) -> list[Row]:
    """The rows of the run with the most networks: bars of two devices or batches would not compare."""
    runs: dict[tuple, list[Row]] = {}
    for row in rows:
        runs.setdefault((row["device"], row["run_id"], row["batch_size"]), []).append(row)
    return max(runs.values(), key=len, default=[])


def _peaks(axes: "Axes", rows: list[Row]) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    if not models:
        axes.set_title("(b) peak memory of whole networks")
        empty_panel(axes, "the memory of whole networks was not measured")
        return
    for offset, form, colour in ((0.2, "train", BLUE), (-0.2, "deploy", OURS_COLOUR)):
        values = {row["model"]: row["peak_mib"] for row in rows if row["form"] == form}
        places = [place for place, model in enumerate(models) if model in values]
        bars = axes.barh([place + offset for place in places], [values[models[place]] for place in places], height=0.36,
                         color=colour, label=f"{form} form")  # fmt: skip
        axes.bar_label(bars, fmt="%.0f", fontsize=6, padding=2)
    axes.set_yticks(range(len(models)), models)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    first = rows[0]
    sizes = "/".join(str(px) for px in sorted({row["input_px"] for row in rows}))
    setting = f"fp32, eager, batch {first['batch_size']}, {sizes} px"
    axes.set(title="(b) peak memory", xlabel=f"MiB with weights; {setting}\n{first['device']}")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)


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

    tables = {"Table 6": _table6_names(evidence), "Table 7": _table7_names(evidence)}
    columns = [*ablation_columns(evidence)]
    height = sum(0.19 * len(names) + 0.45 for names in tables.values()) + 0.55
    figure, grid = plt.subplots(
        2, 1 + len(columns), figsize=(COLUMN_INCHES, height), sharex="col", sharey="row", squeeze=False,
        height_ratios=[len(names) + 1 for names in tables.values()],
    )  # fmt: skip
    for (table, names), row in zip(tables.items(), grid, strict=True):
        printed = {model: _printed_top1(evidence, model) for model in names}
        _dots(row[0], names, {model: (value, None, ()) for model, value in printed.items()}, PAPER_COLOUR)
        row[0].set_title(f"{table}, printed")
        row[0].margins(x=0.22)
        for axes, column in zip(row[1:], columns, strict=True):
            ours = {
                model: (part.top1, (part.low, part.high), part.seeds)
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
        axes.set_xlabel(f"{column.label}\nbars: 95 % over {_bars(column.accuracies)}")
    return figure


def _bars(accuracies: dict[str, Accuracy]) -> str:
    """Over what the intervals of a column generalise."""
    counts = sorted({len(accuracy.seeds) for accuracy in accuracies.values()})
    least = [count for count in counts if count >= LEAST_SEEDS]
    words = [f"{'/'.join(map(str, least))} seeds"] if least else []
    if len(least) < len(counts):
        words.append("images")
    return " or ".join(words)


def _printed_top1(evidence: Evidence, model: str) -> float:
    return evidence.facts.printed(Quantity("top1", model, ("120-epochs",)))


def _table6_names(evidence: Evidence) -> dict[str, str]:
    words = {("no", "no"): "no branch", ("yes", "no"): "identity", ("no", "yes"): "1x1", ("yes", "yes"): "both"}
    return {
        row["model"]: words[row["identity_branch"], row["conv1x1_branch"]] for row in evidence.facts.table("table6")
    }


def _table7_names(evidence: Evidence) -> dict[str, str]:
    return {
        row["model"]: row["variant"].removesuffix(" reparam") for row in evidence.facts.table("table7")
        if row["printed_in"] == "table"
    }  # fmt: skip


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
            word = "DEMO" if prefix == "demo" else "other images"
            label = f"{prefix} top-1 (%)\n" + wrapped(f"{dataset}, {network}; {first.recipe}", 26)
            columns.append(AblationColumn(f"{word}: not ImageNet", label, own, OTHER_IMAGES_TINT))
    return columns


def _dots(
    axes: "Axes", names: dict[str, str], values: dict[str, tuple[float, tuple[float, float] | None, tuple]], colour: str
) -> None:
    import seaborn

    order = list(names.values())
    rows = [(names[model], seed) for model, (_, _, seeds) in values.items() for seed in seeds if len(seeds) > 1]
    if rows:
        seaborn.stripplot(x=[seed for _, seed in rows], y=[name for name, _ in rows], order=order, ax=axes, size=2,
                          color="#b0b0b0", jitter=False, zorder=2)  # fmt: skip
    for model, (top1, interval, _) in values.items():
        place = order.index(names[model])
        if interval:
            axes.hlines(place, *interval, color=colour, linewidth=0.9, zorder=3)
        axes.plot(top1, place, color=colour, marker="o", markersize=3.5, zorder=4)
        digits = 2 if interval is None or interval[1] - interval[0] < 1.5 else 1
        axes.annotate(f"{top1:.{digits}f}", (top1, place), (0, 2.5), ha="center",
                      va="bottom", fontsize=5, textcoords="offset points")  # fmt: skip
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.5, -0.75)
    axes.set(xlabel="", ylabel="")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
