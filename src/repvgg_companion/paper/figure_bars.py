"""Figure 3 (live feature maps and peak memory) and Table 1 (density by kernel size), printed and measured."""

from collections.abc import Collection, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import disturbing_flags, has_paper_shape
from repvgg_companion.paper.figure_style import (
    BLUE,
    COLUMN_INCHES,
    OURS_COLOUR,
    PAPER_COLOUR,
    PAPER_DEVICE,
    STAR,
    TRAIN_COLOUR,
    empty_panel,
    wrapped,
)
from repvgg_companion.paper.named_checks import block_maps
from repvgg_companion.paper.ours import Row, grouped
from repvgg_companion.paper.rounding import truncated
from repvgg_companion.paper.table_columns import kernel_row_order
from repvgg_companion.speed.measure_memory import WHOLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Figure 3, in units of the block's input: before the block, on both sides of its inner ReLU, after the addition.
FIGURE3_POINTS = ("input", "before\nReLU", "after\nReLU", "after the\naddition")
FIGURE3_PAPER = {"residual": (1, 2, 2, 1), "plain": (1, 1, 1, 1)}
BAR_INCHES = 0.12
"""Height of a bar with its number beside it."""


def table1(evidence: Evidence) -> "Figure":
    """Computational density by kernel size: the printed bars, and ours on the device of the experiment."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 1.9))
    facts = evidence.facts.table("table1")
    printed = [fact["density_tflops"] for fact in facts]
    _density_bars(left, facts, printed, list(map(_printed_density, facts)), color=PAPER_COLOUR)
    left.set(title=f"(a) paper: {PAPER_DEVICE.split(',')[0]}, fp32", ylabel="kernel size")
    notes = ["(a) 2048 channels, batch 32, 56 px, 10 runs;", "in brackets: from the printed time"]
    ours = kernel_rows(evidence)
    if ours:
        spread = [
            [row["tflops"] * (1 - row["time_ms"] / row["high_ms"]) for row in ours],
            [row["tflops"] * (row["time_ms"] / row["low_ms"] - 1) for row in ours],
        ]
        error = {"color": OURS_COLOUR, "xerr": spread, "error_kw": {"linewidth": 0.7}}
        words = [f"{row['tflops']:.3g}" + STAR * bool(disturbing_flags(row)) for row in ours]
        _density_bars(right, ours, [row["tflops"] for row in ours], words, **error)
        right.set_title(f"(b) here: {ours[0]['precision']}")
        notes.append(wrapped(f"(b) {ours[0]['device']}, {kernel_setting(ours[0])}", 56))
        notes += [f"{STAR} disturbed speed"] if any(map(disturbing_flags, ours)) else []
    else:
        right.set_title("(b) measured here")
        empty_panel(right, "no kernel sizes\nwere measured")
    figure.supxlabel("\n".join(notes), fontsize=7)
    return figure


def kernel_setting(row: Row) -> str:
    """`fp32, eager, 256 channels, batch 4, 56 px, 20 samples`: how a kernel size was measured."""
    smaller = "" if has_paper_shape(row) else "smaller shape: "
    shape = f"{row['channels']} channels, batch {row['batch_size']}, {row['resolution_px']} px"
    return f"{row['precision']}, {row['backend']}, {smaller}{shape}, {row['n_samples']} samples"


def _printed_density(fact: Row) -> str:
    """The printed number, and in brackets the one that its FLOPs and time give where that is another."""
    printed, given = fact["density_tflops"], truncated(2 * fact["flops_b"] / fact["time_ms"], 2)
    return f"{printed:.2f}" + (f" ({given:.2f})" if given != printed else "")


def _density_bars(axes: "Axes", rows: list[Row], values: list[float], words: list[str], **drawing: Any) -> None:
    """A bar for each kernel size from top to bottom, with its number in `words` to its right."""
    from matplotlib.ticker import MaxNLocator

    sizes = [f"{row['kernel_size']}x{row['kernel_size']}" for row in rows]
    axes.bar_label(axes.barh(sizes, values, height=0.66, **drawing), labels=words, padding=2)
    above = drawing["xerr"][1] if "xerr" in drawing else [0.0] * len(values)
    free = [max(0.2, 1 - 0.06 * len(word)) for word in words]  # a letter takes up to 6 % of the panel
    right = max((value + more) / part for value, more, part in zip(values, above, free, strict=True))
    axes.set(xlabel="density (TFLOPS)", xlim=(0, right))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def kernel_rows(evidence: Evidence) -> list[Row]:
    """The rows of one run and setting, the paper's shape and fp32 first."""
    rows = evidence.results.rows("kernel_size")
    # A row without a density says why nothing was measured.
    groups = grouped((row for row in rows if row["tflops"] is not None), kernel_row_order)
    return sorted(groups[min(groups)], key=lambda row: row["kernel_size"]) if groups else []


def figure3(evidence: Evidence) -> "Figure":
    """Live feature maps at the four points of the paper's Figure 3, printed and measured; peaks of whole networks."""
    import matplotlib.pyplot as plt

    rows = evidence.results.rows("memory")
    peaks = peak_rows(rows)
    heights = (1.6, 0.4 + BAR_INCHES * max(4, len(peaks) + 0.4 * len({row["model"] for row in peaks})))
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(COLUMN_INCHES, sum(heights) + 0.6), height_ratios=heights)
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
    """The peaks of whole networks of the run with the most of them: bars of two devices or batches do not compare.

    A baseline has no branches to convert: of its two forms only the one with folded batch norms is given.
    """
    whole = [row for row in rows if row["layer"] == WHOLE and row["peak_mib"] is not None]
    runs = grouped(whole, itemgetter("device", "run_id", "batch_size"))
    found = max(runs.values(), key=len, default=[])
    deployed = {row["model"] for row in found if row["form"] == "deploy"}
    return [
        row for row in found if row["form"] == "deploy" or has_branches(row["model"]) or row["model"] not in deployed
    ]


def has_branches(model: str) -> bool:
    """Whether conversion merges branches in a network; in a baseline it only folds batch norms."""
    return model.startswith("RepVGG") or "_" in model or "-RepVGG" in model


def memory_setting(rows: list[Row]) -> str:
    """`fp32, eager, batch 1, 224 px`: how peaks were measured."""
    sizes = "/".join(str(px) for px in sorted({row["input_px"] for row in rows}))
    return f"fp32, eager, batch {rows[0]['batch_size']}, {sizes} px"


def _peaks(axes: "Axes", rows: list[Row]) -> None:
    axes.set_title("(b) peak memory of whole networks", pad=14)  # the legend stands below it
    if not rows:
        empty_panel(axes, "the memory of whole networks was not measured")
        return
    form_bars(axes, {(row["model"], row["form"]): row["peak_mib"] for row in rows}, "%.0f")
    axes.margins(x=0.12)
    axes.set_xlabel(f"MiB with weights; {memory_setting(rows)}\n{rows[0]['device']}")


def form_bars(
    axes: "Axes",
    values: Mapping[tuple[str, str], float],
    number: str = "",
    starred: Collection[tuple[str, str]] = (),
) -> None:
    """A bar for each network and form in `values`, the bars of one network together.

    `number` formats their values; the bars in `starred` were disturbed.
    """
    places: dict[tuple[str, str], float] = {}
    ticks: dict[str, float] = {}
    at = 0.0
    for model in dict.fromkeys(model for model, _ in values):
        forms = [form for form in ("deploy", "train") if (model, form) in values]
        places |= {(model, form): at + step for step, form in enumerate(forms)}
        ticks[model] = at + (len(forms) - 1) / 2
        at += len(forms) + 0.4
    for form, colour in (("deploy", OURS_COLOUR), ("train", TRAIN_COLOUR)):
        keys = [key for key in places if key[1] == form]
        if not keys:
            continue
        bars = axes.barh([places[key] for key in keys], [values[key] for key in keys], height=0.92, color=colour,
                         label=f"{form} form")  # fmt: skip
        if number:
            axes.bar_label(bars, fmt=number, padding=2)
        elif starred:
            axes.bar_label(bars, labels=[STAR * (key in starred) for key in keys], padding=1)
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.set_ylim(at - 0.6, -0.8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
