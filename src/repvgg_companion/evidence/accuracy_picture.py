"""The picture "Does the accuracy hold?": every re-evaluation and retraining, in points from the print."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repvgg_companion.evaluation.accuracy import wilson_interval_pct
from repvgg_companion.evidence.third_party import OTHER_BASELINE, REEVALUATED, PublishedAccuracy
from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.figure_style import BLUE, COLUMN_INCHES, OURS_COLOUR, named_bands, short
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.printed import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RELEASED, SAME_RECIPE, OTHER_RECIPE, AUTHORS = (
    "released weights, re-evaluated", "retrained by others", "retrained by others, other recipe",
    "retrained by the authors (README)",
)  # fmt: skip
_STYLES = {
    RELEASED: ("o", "none", BLUE),
    SAME_RECIPE: ("s", OURS_COLOUR, OURS_COLOUR),
    OTHER_RECIPE: ("X", "none", OURS_COLOUR),
    AUTHORS: ("D", "#000000", "#000000"),
}
_LEFT, _RIGHT = -1.45, 0.75


@dataclass(frozen=True)
class AccuracyPoint:
    """One accuracy by others: difference from the printed top-1 in points, its interval if any."""

    model: str
    input_px: int
    kind: str
    source: str
    difference: float
    interval: tuple[float, float] | None
    row: str = ""
    """File and line of the published row."""


def accuracy_points(facts: Facts, rows: Sequence[PublishedAccuracy]) -> Iterator[AccuracyPoint]:
    """Every point of the picture; each is compared with the print of its own recipe and input size."""
    for row in rows:
        if row.kind == OTHER_BASELINE:
            continue
        printed = printed_top1(facts, row)
        interval = None
        if row.n_images is not None:
            correct = round(row.top1_pct / 100 * row.n_images)
            low, high = wilson_interval_pct(correct, row.n_images)
            interval = (low - printed, high - printed)
        where = f"paper/{row.file} line {row.line}"
        yield AccuracyPoint(row.model, row.input_px, _kind(row), row.source, row.top1_pct - printed, interval, where)


def printed_top1(facts: Facts, row: PublishedAccuracy) -> float:
    """The printed top-1 that a row is compared with: the one of its recipe, or of the released weights."""
    if row.input_px != 224 or MODELS[row.model].test_px != 224:
        return facts.printed(Quantity("top1", row.model, (f"{row.input_px}px",)))
    released = facts.recipe_of_released(row.model) or "120-epochs"
    recipe = row.recipe if row.recipe.endswith("-epochs") else released
    return facts.printed(Quantity("top1", row.model, (recipe,)))


def _kind(row: PublishedAccuracy) -> str:
    if row.by_authors:
        return AUTHORS
    if row.kind == REEVALUATED:
        return RELEASED
    return OTHER_RECIPE if row.recipe == "other" else SAME_RECIPE


def accuracy_figure(points: Sequence[AccuracyPoint]) -> "Figure":
    """One band a network: differences from the print, with the 95 % interval for new images where it is known."""
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys((name, px) for name in MODELS for px in (224, 320)
                                  if any((point.model, point.input_px) == (name, px) for point in points)))  # fmt: skip
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 5.2))
    for place, network in enumerate(networks):
        _draw_network(axes, place, [point for point in points if (point.model, point.input_px) == network])
    axes.axvline(0, color="#888888", linewidth=1.2, zorder=1)
    labels = [f"{short(name)}, {px} px" if name == "RepVGG-D2se" else short(name) for name, px in networks]
    axes.set_xlim(_LEFT, _RIGHT)
    axes.set_xticks([-1, -0.5, 0, 0.5])
    named_bands(axes, labels)
    axes.set_xlabel(
        "top-1 less the printed top-1 (points); lines: 95 %\ninterval for new images, if their number is known"
    )
    _legend(figure)
    return figure


def _draw_network(axes: "Axes", place: int, points: Sequence[AccuracyPoint]) -> None:
    ordered = sorted(points, key=lambda point: (list(_STYLES).index(point.kind), point.source))
    for number, point in enumerate(ordered):
        y = place + (0.8 * (number + 0.5) / len(ordered) - 0.4)
        marker, face, edge = _STYLES[point.kind]
        if point.difference < _LEFT:
            axes.annotate(f"{point.difference:+.2f}", (_LEFT, y), (_LEFT + 0.12, y), fontsize=7, va="center",
                          color=edge, arrowprops={"arrowstyle": "->", "color": edge, "linewidth": 0.6})  # fmt: skip
            continue
        if point.interval is not None:
            axes.plot(point.interval, [y, y], color=edge, linewidth=0.6, zorder=2)
        axes.plot(point.difference, y, marker, markersize=2.8, markerfacecolor=face if face != "none" else "white",
                  markeredgecolor=edge, markeredgewidth=0.7, zorder=3)  # fmt: skip


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", marker=marker, markerfacecolor=face, markeredgecolor=edge, label=kind)
               for kind, (marker, face, edge) in _STYLES.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=1)
