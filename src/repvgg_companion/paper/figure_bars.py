"""Figure 3 (live feature maps and peak memory) and Table 1 (density by kernel size), printed and measured."""

from typing import TYPE_CHECKING, Any

from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import has_paper_shape
from repvgg_companion.paper.figure_style import (
    BLUE,
    COLUMN_INCHES,
    OURS_COLOUR,
    PAPER_COLOUR,
    PAPER_DEVICE,
    empty_panel,
)
from repvgg_companion.paper.named_checks import block_maps
from repvgg_companion.paper.ours import Row
from repvgg_companion.paper.table_columns import kernel_row_order
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

    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 1.9))
    facts = evidence.facts.table("table1")
    _density_bars(left, facts, [fact["density_tflops"] for fact in facts], "%.2f", color=PAPER_COLOUR)
    left.set(title=f"(a) paper: {PAPER_DEVICE.split(',')[0]}, fp32", ylabel="density (TFLOPS)")
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#8a8a8a"}
    words = "printed; its time\ngives 10.05"
    left.annotate(words, (2, 12.8), (2.45, 25), fontsize=5.5, ha="center", color="#555555", arrowprops=line)
    ours = kernel_rows(evidence)
    if not ours:
        right.set_title("(b) measured here")
        empty_panel(right, "no kernel sizes were\nmeasured")
        return figure
    spread = [
        [row["tflops"] * (1 - row["time_ms"] / row["high_ms"]) for row in ours],
        [row["tflops"] * (row["time_ms"] / row["low_ms"] - 1) for row in ours],
    ]
    error = {"color": OURS_COLOUR, "yerr": spread, "error_kw": {"linewidth": 0.7}}
    _density_bars(right, ours, [row["tflops"] for row in ours], "%.3g", **error)
    first = ours[0]
    smaller = "" if has_paper_shape(first) else "smaller shape: "
    shape = f"{smaller}{first['channels']} channels, batch {first['batch_size']}, {first['resolution_px']} px, "
    shape += f"{first['n_samples']} samples"
    right.set_title(f"(b) here: {first['precision']}")
    figure.supxlabel(f"(a) 2048 channels, batch 32, 56 px, 10 runs\n(b) {first['device']}\n{shape}", fontsize=6)
    return figure


def _density_bars(axes: "Axes", rows: list[Row], values: list[float], digits: str, **drawing: Any) -> None:
    sizes = [f"{row['kernel_size']}x{row['kernel_size']}" for row in rows]
    axes.bar_label(axes.bar(sizes, values, width=0.62, **drawing), fmt=digits, fontsize=6, padding=1)
    axes.set_xlabel("kernel size")
    axes.margins(y=0.14)
    axes.grid(axis="x", visible=False)


def kernel_rows(evidence: Evidence) -> list[Row]:
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
    peaks = peak_rows(rows)
    count = len({row["model"] for row in peaks})
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(COLUMN_INCHES, 2.5 + 0.33 * max(1, count)), height_ratios=(1.6, 0.5 + 0.33 * max(1, count))
    )
    top.set(title="(a) feature maps alive between operators", ylabel="in units of the input")
    for kind, colour, marker in (("residual", BLUE, "s"), ("plain", OURS_COLOUR, "o")):
        drawn = {"color": colour, "marker": marker}
        hollow = {"markersize": 6, "markerfacecolor": "white"}
        top.plot(range(4), FIGURE3_PAPER[kind], label=f"{kind}, paper", **drawn, **hollow)
        if measured := block_maps(rows, kind):
            top.plot(range(len(measured)), measured, ls="", label=f"{kind}, measured", markersize=3, **drawn)
    top.set_xticks(range(4), FIGURE3_POINTS)
    top.set(ylim=(0, 2.6), yticks=(0, 1, 2))
    top.legend(ncols=2, loc="lower center")
    _peaks(bottom, peaks)
    return figure


def peak_rows(rows: list[Row]) -> list[Row]:
    """The peaks of whole networks of the run with the most of them: bars of two devices or batches do not compare."""
    runs: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["layer"] != WHOLE or row["peak_mib"] is None:
            continue
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
        bars = axes.barh(
            [place + offset for place in places],
            [values[models[place]] for place in places],
            height=0.36,
            color=colour,
            label=f"{form} form",
        )
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
