"""The proxies figure: speed against FLOPs and against Wino MULs, printed and measured (claim C32)."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import widest_of_each_device
from repvgg_companion.paper.figure_labels import separate_labels
from repvgg_companion.paper.figure_style import (
    COLUMN_INCHES,
    PAPER_DEVICE,
    SERIES,
    STAR,
    family,
    family_legend,
    freeze_layout,
    plain_ticks,
    short,
)
from repvgg_companion.paper.named_checks import proxies
from repvgg_companion.paper.printed import printed_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROXIES = {"flops": "FLOPs (B)", "wino": "Wino MULs (B)"}
"""The counts that stand for the speed, with their axis labels."""


def proxies_figure(evidence: Evidence) -> "Figure":
    """Speed against both counts, each network named, with Spearman's rank correlation and its 95 % interval."""
    import matplotlib.pyplot as plt

    columns = proxy_panels(evidence)
    panels = [(title, points, key) for title, points in columns for key in PROXIES]
    figure, grid = plt.subplots(len(panels), 1, figsize=(COLUMN_INCHES, 2.0 * len(panels) + 0.5), squeeze=False)
    for axes, (title, points, key) in zip(grid[:, 0], panels, strict=True):
        axes.set_title(title)
        axes.set(ylabel="speed (examples/s)", xlabel=PROXIES[key])
        _correlated(axes, points, key)
    points = [point for _, points in columns for point in points]
    family_legend(
        figure, [family(point["model"]) for point in points], starred=any(point["disturbed"] for point in points)
    )
    freeze_layout(figure)
    for axes, (_, points, key) in zip(grid[:, 0], panels, strict=True):
        labels = [
            (
                point[key] / 1e9,
                point["speed"],
                short(point["model"]) + STAR * point["disturbed"],
                SERIES[family(point["model"])].colour,
            )
            for point in points
        ]
        separate_labels(axes, labels, [])
    return figure


def proxy_panels(evidence: Evidence) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of panels: their title, and speed, FLOPs and Wino MULs of each network with its source."""
    paper = []
    for fact in evidence.facts.table("table4"):
        if fact["wino_muls_b"] is not None:
            speed, flops, wino = fact["speed_examples_per_s"], fact["flops_b"] * 1e9, fact["wino_muls_b"] * 1e9
            source = printed_row(evidence.facts, "table4", fact)
            counts = {"flops": flops, "wino": wino}
            paper.append({"model": fact["model"], "speed": speed, **counts, "evidence": source, "disturbed": False})
    columns = [(f"paper, Table 4: {PAPER_DEVICE}, 224 px", paper)]
    columns += [
        (f"here: {run.device}\n{run.details}", ours)
        for run in widest_of_each_device(evidence.results)
        if (ours := proxies(replace(evidence, speeds=run)))
    ]
    return columns


def spearman_interval(rank: float, n: int) -> tuple[float, float] | None:
    """The 95 % interval of Spearman's rho over `n` networks, as if they were a sample; None below five of them.

    Fisher's z with the variance of Bonett and Wright (2000), (1 + rho^2 / 2) / (n - 3).
    """
    if n < 5 or abs(rank) >= 1:
        return None
    half = 1.959964 * math.sqrt((1 + rank**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rank) - half), math.tanh(math.atanh(rank) + half)


def _correlated(axes: "Axes", points: list[dict[str, Any]], key: str) -> None:
    from scipy.stats import spearmanr

    axes.set(xscale="log", yscale="log")
    axes.margins(0.1, 0.2)
    for point in points:
        series = SERIES[family(point["model"])]
        axes.plot(point[key] / 1e9, point["speed"], color=series.colour, marker=series.marker, markersize=3, zorder=4)
    if len(points) > 2:
        rank = spearmanr([point[key] for point in points], [point["speed"] for point in points]).statistic
        span = spearman_interval(rank, len(points))
        words = f"Spearman {rank:.2f}" + (f" [{span[0]:.2f}, {span[1]:.2f}]" if span else "")
        words += f"\n{len(points)} networks"
        axes.text(0.98, 0.98, words, transform=axes.transAxes, ha="right", va="top")
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)
