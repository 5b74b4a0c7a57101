"""The picture and the tables of a small study: the paper's differences beside ours, and the accuracy by epoch."""

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from repvgg_companion.contract import read_rows
from repvgg_companion.evidence.check_studies import history_of
from repvgg_companion.evidence.from_studies import Study
from repvgg_companion.evidence.study_pairs import NOT_RESOLVED, Pair, variation
from repvgg_companion.paper.figure_style import COLUMN_INCHES, OTHER_IMAGES_TINT, OURS_COLOUR, PAPER_COLOUR, wrapped
from repvgg_companion.paper.inference import Span, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {"plain": "plain", "1x1-only": "1x1", "identity-only": "identity", "B0": "both"}
"""How the networks of Table 6 are called; any other keeps its own name."""
_LINES = (("#000000", ":", "v"), ("#009E73", "--", "s"), ("#0072B2", "-.", "^"), ("#D55E00", "-", "o"),
          ("#CC79A7", "--", "D"), ("#E69F00", ":", "P"), ("#56B4E9", "-.", "X"), ("#000000", "-", "*"),
          ("#009E73", "-.", "<"), ("#0072B2", ":", ">"), ("#D55E00", "--", "h"), ("#E69F00", "-", "8"),
          ("#56B4E9", "--", "p"))  # fmt: skip
_NETWORKS = ("plain", "1x1-only", "identity-only", "B0", "identity-without-bn", "post-addition-bn", "relu-in-branch",
             "trivial-reparam", "residual-reorg", "diracnet", "A0", "acb", "ResNet-18")  # fmt: skip
STYLES = dict(zip(_NETWORKS, _LINES, strict=True))
"""Colour, dash and marker of each network, the same in all studies."""
_FEW = 4
"""Up to this many networks have bands that can be told apart."""
_LEGEND_LETTERS = 24
"""Of all names together: as many fit beside each other in the legend."""


def named(model: str) -> str:
    """`both` for RepVGG-B0, `1x1` for RepVGG-B0_1x1-only."""
    return WORDS.get(variation(model), variation(model))


def pair_name(pair: Pair) -> str:
    """`both - plain`: a pair in the table of the study."""
    return f"{named(pair.upper)} - {named(pair.lower)}"


def study_figure(study: Study) -> "Figure":
    """Above the differences of all pairs, printed and ours with 95 % intervals; below the accuracy by epoch."""
    import matplotlib.pyplot as plt

    rows = len(study.pairs)
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(COLUMN_INCHES, 3.1 + 0.34 * rows), height_ratios=[0.34 * rows + 0.7, 1.75]
    )
    _differences(top, study)
    _curves(bottom, study)
    return figure


def _differences(axes: "Axes", study: Study) -> None:
    for place, pair in enumerate(study.pairs):
        resolved = pair.verdict != NOT_RESOLVED
        axes.plot(pair.printed, place - 0.26, "D", color=PAPER_COLOUR, markersize=3.2)
        axes.hlines(place, pair.span.low, pair.span.high, color=OURS_COLOUR, linewidth=1.1)
        axes.plot(pair.difference, place, "o", color=OURS_COLOUR, markersize=4,
                  markerfacecolor=OURS_COLOUR if resolved else "white")  # fmt: skip
        if pair.paired is not None:
            axes.hlines(place + 0.26, pair.paired.low, pair.paired.high, color="#E69F00", linewidth=0.8)
            axes.plot(pair.difference, place + 0.26, "|", color="#E69F00", markersize=5)
    axes.axvline(0, color="#000000", linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(study.pairs)), [f"{named(pair.upper)} –\n{named(pair.lower)}" for pair in study.pairs])
    axes.set_ylim(len(study.pairs) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_facecolor(OTHER_IMAGES_TINT)
    axes.set(title="(a) difference of top-1 (points)")
    _legend(axes)


def _legend(axes: "Axes") -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, **drawing: Any) -> Line2D:
        return Line2D([], [], label=label, **drawing)

    handles = [
        mark("the paper: ImageNet, 120 epochs, one seed", color=PAPER_COLOUR, marker="D", markersize=3.2, linestyle=""),
        mark("here, 95 % (Welch); open: not resolved", color=OURS_COLOUR, marker="o", markersize=4, linewidth=1.1),
        mark("here, 95 % of the differences seed by seed", color="#E69F00", marker="|", markersize=5, linewidth=0.8),
    ]
    axes.figure.legend(handles=handles, loc="outside upper center", ncols=1)


def curve_of(study: Study, model: str) -> tuple[list[int], list[float], list[Span | None]]:
    """The epochs after which a network was validated, its mean accuracy there, and the 95 % interval over seeds."""
    paths = [study.results.folder / history_of(row) for row in study.rows if row["model"] == model]
    epochs = zip(*(read_rows(path, "history") for path in paths), strict=True)
    columns = {rows[0]["epoch"]: [row["val_top1_pct"] for row in rows] for rows in epochs}
    validated = {epoch: column for epoch, column in columns.items() if None not in column}
    means = [float(np.mean(column)) for column in validated.values()]
    return list(validated), means, [over_seeds([1.0], [column]) for column in validated.values()]


def _curves(axes: "Axes", study: Study) -> None:
    from matplotlib.ticker import MaxNLocator

    order = sorted(study.accuracies, key=lambda model: float(np.mean(list(study.accuracies[model].values()))))
    others = cycle(_LINES)
    for model in order:
        colour, line, marker = STYLES.get(variation(model)) or next(others)
        epochs, means, spans = curve_of(study, model)
        axes.plot(epochs, means, color=colour, linestyle=line, marker=marker, markersize=3, label=named(model))
        if all(spans) and len(order) <= _FEW:
            low, high = zip(*[(span.low, span.high) for span in spans if span is not None], strict=True)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_facecolor(OTHER_IMAGES_TINT)
    seeds = sorted({len(part) for part in study.accuracies.values()})
    bands = ", bands: 95 %" if len(order) <= _FEW else ""
    axes.set(title=f"(b) mean of {'/'.join(map(str, seeds))} seeds{bands}", ylabel="top-1 (%)", xlabel="epoch")
    words = f"{study.setting}: not ImageNet; {len(study.rows)} trainings"
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center",
        ncols=4 if sum(len(named(model)) for model in order) <= _LEGEND_LETTERS else 2,
        title=wrapped(words, 48), title_fontsize=7,
    )  # fmt: skip


def pair_rows(study: Study) -> list[dict[str, Any]]:
    """The rows of the table of pairs, in the form that `paper.tables` writes; numbers to six digits."""
    return [
        {
            "pair": pair_name(pair),
            "claims": ", ".join(pair.claims),
            "paper_points": _six(pair.printed),
            "ours_points": _six(pair.difference),
            "ours_low_points": _six(pair.span.low),
            "ours_high_points": _six(pair.span.high),
            "paired_points": _six(pair.difference) if pair.paired else None,
            "paired_low_points": _six(pair.paired.low) if pair.paired else None,
            "paired_high_points": _six(pair.paired.high) if pair.paired else None,
            "holm_p": float(f"{pair.p_corrected:.3g}"),
            "verdict": pair.verdict,
            "seeds_needed": pair.seeds_needed,
            "note": [],
        }
        for pair in study.pairs
    ]


def network_rows(study: Study) -> list[dict[str, Any]]:
    """The rows of the table of networks: mean, interval and spread over the seeds, and the single seeds."""
    rows = []
    for model, seeds in study.accuracies.items():
        values = list(seeds.values())
        span = over_seeds([1.0], [values])
        rows.append(
            {
                "network": named(model),
                "top1_pct": _six(float(np.mean(values))),
                "top1_low_pct": _six(span.low) if span else None,
                "top1_high_pct": _six(span.high) if span else None,
                "standard_deviation": float(f"{np.std(values, ddof=1):.3g}") if len(values) > 1 else None,
                "single_seeds": ", ".join(f"{value:.2f}" for _, value in sorted(seeds.items())),
                "note": [],
            }
        )
    return rows


def _six(value: float) -> float:
    """Six digits, so that a table is the same on every machine."""
    return float(f"{value:.6g}")
