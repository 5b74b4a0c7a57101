"""Figure 1: accuracy against speed."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from repvgg_companion.paper.accuracies import Comparable, other_accuracies, summarised
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import (
    ComparableRun,
    disturbing_flags,
    interval_of,
    widest_of_each_device,
)
from repvgg_companion.paper.figure_labels import separate_labels
from repvgg_companion.paper.figure_style import (
    COLUMN_INCHES,
    OTHER_IMAGES_TINT,
    PAPER_DEVICE,
    SERIES,
    STAR,
    empty_panel,
    family,
    family_legend,
    freeze_layout,
    plain_ticks,
    short,
    wrapped,
)
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.ours import Row, accuracy_sources
from repvgg_companion.paper.printed import printed_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PlottedPoint:
    """One network: speed with interval in examples/s, accuracy with interval in percent; no interval is None."""

    model: str
    speed: float
    top1: float
    speed_interval: tuple[float, float] | None = None
    top1_interval: tuple[float, float] | None = None
    label: str | None = None
    epochs: int = 120
    """Of the paper's recipe; 0 on other images than the paper's."""
    source: str = ""
    """The rows of both coordinates."""
    disturbed: bool = False
    """Whether the speed was disturbed beyond the limits of its measurement."""


@dataclass(frozen=True)
class Panel:
    """One panel of Figure 1; limits and ticks are the paper's where it is the paper's panel."""

    title: str
    points: list[PlottedPoint]
    x_label: str = "speed (examples/s)"
    y_label: str = "top-1 accuracy (%)"
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    x_ticks: tuple[float, ...] = ()
    y_ticks: tuple[float, ...] = ()
    tint: str | None = None
    by_others: bool = False
    """Values published by others: all markers are open, and a dot inside means 200 epochs."""


def figure1(evidence: Evidence) -> "Figure":
    """Accuracy against speed: the paper's two panels, and below them what was measured here."""
    panels = figure1_panels(evidence)
    heights = [2.6 if len(panel.points) > 16 else 2.2 if len(panel.points) > 9 else 1.8 for panel in panels]
    return _panels_figure(panels, heights, sum(heights) + 0.35)


def panel_figure(panel: Panel) -> "Figure":
    """One panel of Figure 1 as a figure of its own, one column wide."""
    return _panels_figure([panel], [1], 3.2 if len(panel.points) > 16 else 2.7 if panel.points else 0.9)


def _panels_figure(panels: list[Panel], heights: list[float], inches: float) -> "Figure":
    """Panels below each other, `inches` high together, with one legend."""
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(len(panels), 1, figsize=(COLUMN_INCHES, inches), height_ratios=heights, squeeze=False)
    joined = [draw_panel(axes, panel) for axes, panel in zip(rows[:, 0], panels, strict=True)]
    points = [point for panel in panels for point in panel.points]
    family_legend(
        figure,
        [family(point.model) for point in points],
        open_markers="open: 200 epochs" if any(point.epochs == 200 for point in points) else "",
        joined=any(joined),
        starred=any(point.disturbed for point in points),
    )
    freeze_layout(figure)
    for axes, panel, lines in zip(rows[:, 0], panels, joined, strict=True):
        write_labels(axes, panel, lines)
    return figure


def figure1_panels(evidence: Evidence) -> list[Panel]:
    """The panels of Figure 1 from top to bottom."""
    return [*_paper_panels(evidence), *our_panels(evidence)]


def write_labels(axes: "Axes", panel: Panel, lines: list[list[tuple[float, float]]], size: float = 7) -> None:
    """Name each point of a panel in text of `size` points; the layout is frozen, `lines` are those of `draw_panel`."""
    labels = [
        (p.speed, p.top1, (p.label or short(p.model)) + STAR * p.disturbed, SERIES[family(p.model)].colour)
        for p in panel.points
    ]
    separate_labels(axes, labels, lines, size)


def _paper_panels(evidence: Evidence) -> list[Panel]:
    points: dict[str, list[PlottedPoint]] = {"left": [], "right": []}
    for fact in evidence.facts.table("figure1"):
        points[fact["panel"]].append(
            PlottedPoint(
                fact["model"],
                fact["speed_examples_per_s"],
                fact["top1_pct"],
                label=inferred_label(fact),
                epochs=fact["epochs"],
                source=printed_row(evidence.facts, "figure1", fact),
            )
        )
    return [
        Panel(
            f"(a) paper, 120 epochs; {PAPER_DEVICE}",
            points["left"],
            "speed (examples/s; 224 px, 50 timed batches)",
            x_limits=(250, 1600),
            y_limits=(74, 79),
            x_ticks=(300, 600, 900, 1200, 1500),
            y_ticks=(74, 75, 76, 77, 78, 79),
        ),
        Panel(
            f"(b) paper, 200 epochs; {PAPER_DEVICE}",
            points["right"],
            "speed (examples/s; 224 px, EfficientNet-B3 300 px)",
            x_limits=(150, 650),
            y_limits=(79.25, 80.61),
            x_ticks=(200, 300, 400, 500, 600),
            y_ticks=(79.4, 79.6, 79.8, 80.0, 80.2, 80.4, 80.6),
        ),
    ]


def inferred_label(fact: Row) -> str | None:
    """The label of a point that Figure 1 does not name, such as `(B2g2?)`; None if it does."""
    return f"({short(fact['model'])}?)" if fact["model_label_origin"].startswith("not labelled") else None


def our_panels(evidence: Evidence) -> list[Panel]:
    """For each device its speeds with our ImageNet accuracies or the printed ones; then those on other images."""
    devices = widest_of_each_device(evidence.results)
    if not devices:
        return [Panel(f"(c) measured here: {evidence.why_no_speeds or 'no speed'}", [])]
    panels = [panel for run in devices for panel in _device_panel(evidence, run)]
    plain = {model for model, form in devices[0].rows if "_" not in model}
    for prefix, models in other_accuracies(evidence.results, plain).items():
        panels.append(_other_panel(prefix, models, devices[0]))
    return [
        replace(panel, title=f"({letter}) {panel.title}")
        for letter, panel in zip("cdefghijklmnop", panels, strict=False)
    ]


def _speed_label(run: ComparableRun) -> str:
    return f"speed of the full-width network (examples/s)\n{run.device}\n{run.details}"


def _device_panel(evidence: Evidence, run: ComparableRun) -> list[Panel]:
    measured, printed = [], []
    unlabelled = [fact for fact in evidence.facts.table("figure1") if inferred_label(fact)]
    facts = [*evidence.facts.table("table4"), *evidence.facts.table("table5"), *unlabelled]

    def source_of(fact: Row) -> str:
        names = ("table4", "table5", "figure1")
        table = next(name for name in names if any(fact is row for row in evidence.facts.table(name)))
        return printed_row(evidence.facts, table, fact)

    quantities = [Quantity("top1", fact["model"], (f"{fact['epochs']}-epochs",)) for fact in facts]
    accuracies = evidence.comparable_accuracies(quantities)
    for fact, quantity in zip(facts, quantities, strict=True):
        model, epochs = fact["model"], fact["epochs"]
        row = run.rows.get((model, "deploy"))
        if row is None:
            continue
        speed = interval_of(row)
        at = run.row_source(model, "deploy")
        point = PlottedPoint(
            model,
            speed.value,
            fact["top1_pct"],
            (speed.low, speed.high),
            epochs=epochs,
            disturbed=bool(disturbing_flags(row)),
        )
        if quantity in accuracies:
            ours = summarised(accuracies[quantity])
            source = "; ".join([at, *accuracy_sources(ours.rows)])
            measured.append(replace(point, top1=ours.top1, top1_interval=(ours.low, ours.high), source=source))
        else:
            label = inferred_label(fact) if fact in unlabelled else None
            printed.append(replace(point, label=label, source=f"{at}; {source_of(fact)}"))
    if measured:
        return [
            Panel(f"speed (batch {run.batch_size}) and ImageNet accuracy measured here", measured, _speed_label(run))
        ]
    if printed:
        y_label = "top-1 (%), printed in the paper"
        return [
            Panel(f"speed measured here, batch {run.batch_size}; accuracy printed", printed, _speed_label(run), y_label)
        ]
    return []


def _other_panel(prefix: str, found: Comparable, run: ComparableRun) -> Panel:
    points = []
    for model, accuracy in found.accuracies.items():
        row = run.rows.get((model, "deploy"))
        if row is not None:
            speed = interval_of(row)
            source = "; ".join([run.row_source(model, "deploy"), *accuracy_sources(accuracy.rows)])
            spans = (speed.low, speed.high), (accuracy.low, accuracy.high)
            disturbed = bool(disturbing_flags(row))
            points.append(
                PlottedPoint(model, speed.value, accuracy.top1, *spans, epochs=0, source=source, disturbed=disturbed)
            )
    first = next(iter(found.accuracies.values()))  # all are of one network, recipe and protocol
    dataset, width, _, px = first.network.split(", ")
    word = "DEMO" if prefix == "demo" else "OTHER IMAGES"
    y_label = f"{prefix} top-1 (%), other network:\n{dataset}, {width}, {px}"
    left_out = f"; {len(found.others)} networks trained otherwise are left out" if found.others else ""
    x_label = f"{_speed_label(run)}\n{wrapped(f'recipe: {first.recipe}{left_out}', 52)}"
    title = f"{word}: not ImageNet, no result of the paper"
    return Panel(title, points, x_label, y_label, tint=OTHER_IMAGES_TINT)


def draw_panel(axes: "Axes", panel: Panel) -> list[list[tuple[float, float]]]:
    """Draw a panel without labels; returns the points of each line in it."""
    axes.set_title(wrapped(panel.title, 50) if panel.tint or not panel.points else panel.title)
    if not panel.points:
        empty_panel(axes, "no network has both a speed and an accuracy")
        return []
    joined = []
    for name, series in SERIES.items():
        for epochs in sorted({point.epochs for point in panel.points}):
            own = sorted(
                (p for p in panel.points if (family(p.model), p.epochs) == (name, epochs)), key=lambda p: p.speed
            )
            if not own:
                continue
            line = [(point.speed, point.top1) for point in own]
            is_line = series.line and panel.tint is None
            joined += [line] if is_line else []
            is_open = panel.by_others or epochs == 200
            if panel.by_others and epochs == 200:
                axes.plot(*zip(*line, strict=True), ".", color=series.colour, markersize=2.5, zorder=5, clip_on=False)
            if is_line:  # below the labels, which have the markers above them
                axes.plot(*zip(*line, strict=True), color=series.colour, marker="None", zorder=2.5, clip_on=False)
            axes.plot(
                *zip(*line, strict=True),
                color=series.colour,
                marker=series.marker,
                markerfacecolor="white" if is_open else series.colour,
                linestyle="",
                zorder=4,
                clip_on=False,
            )
            for point in own:
                _whiskers(axes, point, series.colour)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.tint:
        axes.set_facecolor(panel.tint)
    if panel.x_limits:
        axes.set(xlim=panel.x_limits, ylim=panel.y_limits, xticks=panel.x_ticks, yticks=panel.y_ticks)
    else:
        axes.margins(0.1, 0.14)
        speeds = [point.speed for point in panel.points]
        if max(speeds) > 6 * min(speeds):  # else the slow networks crowd at the left edge
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
        else:
            axes.set_xlim(left=0)
    return joined


def _whiskers(axes: "Axes", point: PlottedPoint, colour: str) -> None:
    if point.speed_interval:
        axes.hlines(point.top1, *point.speed_interval, color=colour, linewidth=0.7, alpha=0.45, zorder=2)
    if point.top1_interval:
        axes.vlines(point.speed, *point.top1_interval, color=colour, linewidth=0.7, alpha=0.45, zorder=2)
