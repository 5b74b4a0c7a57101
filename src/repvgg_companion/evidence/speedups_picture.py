"""The picture "Do the speed-ups last?": the paper's nine speed ratios on every device and engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

from repvgg_companion.evidence.from_others import SpeedTable
from repvgg_companion.evidence.third_party import DEVICES, SPEED_FILE
from repvgg_companion.paper.comparable_runs import BEST, comparable_runs
from repvgg_companion.paper.figure_style import BLUE, COLUMN_INCHES, GREY, OURS_COLOUR, named_bands, short
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = (
    ("RepVGG-A0", "ResNet-18"), ("RepVGG-A1", "ResNet-34"), ("RepVGG-A2", "ResNet-50"), ("RepVGG-B1g4", "ResNet-101"),
    ("RepVGG-B1g2", "ResNet-152"), ("RepVGG-B2", "VGG-16"), ("RepVGG-A2", "EfficientNet-B0"),
    ("RepVGG-B1", "RegNetX-3.2GF"), ("RepVGG-B3", "RegNetX-12GF"),
)  # fmt: skip
"""Section 4.1: the faster network first."""
HERE, EAGER, COMPILED, TRAIN = "measured here", "others, eager", "others, compiled", "others, train form"
LANES = {HERE: OURS_COLOUR, EAGER: BLUE, COMPILED: "#000000", TRAIN: GREY}
"""From top to bottom within each pair, with their colours."""
_MARKERS = dict(zip(dict.fromkeys(DEVICES.values()), "osD^v<", strict=True))
_OUR_MARKERS = "oD^sv<"
"""Filled, one for each measured device; a seventh device would have the first again."""
_LANE_HEIGHT = 0.2


@dataclass(frozen=True)
class SpeedUp:
    """One ratio of speeds: images/s of the first network of the pair over those of the second."""

    pair: tuple[str, str]
    lane: str
    device: str
    setting: str
    ratio: float
    interval: tuple[float, float] | None = None
    source: str = field(default="", compare=False)
    """The rows of both networks; two tables of one file hold the same pairs."""


def speed_ups(tables: Sequence[SpeedTable], results: Results) -> Iterator[SpeedUp]:
    """Every point of the picture but the printed ratios."""
    for pair in PAIRS:
        top, bottom = (Quantity("speed", name) for name in pair)
        for table in tables:
            first, second = (table.by_model.get(name) for name in pair)
            if first is None or second is None:
                continue
            lane = TRAIN if first.form == "train" else COMPILED if first.backend == "compile" else EAGER
            source = f"paper/{SPEED_FILE} lines {first.line} and {second.line}"
            ratio = first.images_per_s / second.images_per_s
            yield SpeedUp(pair, lane, first.device, first.setting, ratio, None, source)
        for run in comparable_runs(results, [top, bottom])[0]:
            if run.backend != BEST:
                found = run.ratio(top, bottom)
                setting = f"{run.precision}, {run.backend}"
                source = "; ".join(run.row_source(name, "deploy") for name in pair)
                yield SpeedUp(pair, HERE, run.device, setting, found.value, (found.low, found.high), source)


def printed_ratio(facts: Facts, pair: tuple[str, str]) -> float:
    """The ratio of the printed speeds; raises NotAvailable if one is not printed."""
    top, bottom = (facts.printed(Quantity("speed", name)) for name in pair)
    return top / bottom


def speedups_figure(facts: Facts, points: Sequence[SpeedUp]) -> "Figure":
    """One band a pair: the printed ratio as a grey bar, and a lane for each kind of measurement."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 6.7))
    points = list(dict.fromkeys(points))  # both tables of a file hold the same pairs
    ours = dict(zip(sorted({point.device for point in points if point.lane == HERE}), cycle(_OUR_MARKERS)))
    for place, pair in enumerate(PAIRS):
        _draw_pair(axes, place, [point for point in points if point.pair == pair], printed_ratio(facts, pair), ours)
    axes.axvline(1, color="#000000", linewidth=0.6, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks([0.3, 0.5, 0.7, 1, 1.5, 2, 3], ["0.3", "0.5", "0.7", "1", "1.5", "2", "3"])
    axes.xaxis.set_minor_locator(plt.NullLocator())
    named_bands(axes, [f"{short(top)} /\n{bottom}" for top, bottom in PAIRS])
    axes.set_xlabel("times as fast (ratio of images/s)")
    _legends(figure, ours)
    return figure


def _draw_pair(axes: "Axes", place: int, points: Sequence[SpeedUp], printed: float, ours: Mapping[str, str]) -> None:
    axes.plot(
        [printed] * 2, [place - 0.45, place + 0.45], color="#b5b5b5", linewidth=3.5, solid_capstyle="butt", zorder=1
    )
    for lane_place, (lane, colour) in enumerate(LANES.items()):
        mine = sorted((point for point in points if point.lane == lane), key=lambda point: point.ratio)
        centre = place + (lane_place - (len(LANES) - 1) / 2) * _LANE_HEIGHT
        for number, point in enumerate(mine):
            spread = 0.12 * (number / (len(mine) - 1) - 0.5) if len(mine) > 1 else 0.0
            y = centre + spread
            if point.interval is not None:
                axes.plot(point.interval, [y, y], color=colour, linewidth=0.7, zorder=2)
                axes.plot(point.ratio, y, ours[point.device], color=colour, markersize=2.4, zorder=3)
            else:
                axes.plot(point.ratio, y, _MARKERS[point.device], markerfacecolor="none", markeredgecolor=colour,
                          markeredgewidth=0.7, markersize=3.4, zorder=3)  # fmt: skip


def _legends(figure: "Figure", ours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    lanes = [Line2D([], [], color="#b5b5b5", linewidth=3.5, label="printed: GTX 1080 Ti, fp32")]
    lanes += [Line2D([], [], color=LANES[HERE], marker=marker, markersize=2.4, linewidth=0.7,
                     label=f"{HERE}, 95 % interval:\n{device}") for device, marker in ours.items()]  # fmt: skip
    lanes += [Line2D([], [], linestyle="", marker="o", markerfacecolor="none", markeredgecolor=LANES[lane],
                     label=lane) for lane in (EAGER, COMPILED, TRAIN)]  # fmt: skip
    devices = [Line2D([], [], linestyle="", marker=marker, markerfacecolor="none", markeredgecolor="#333333",
                      label=name) for name, marker in _MARKERS.items()]  # fmt: skip
    title = "lanes of each pair, from top to bottom"
    figure.legend(handles=lanes, loc="outside upper center", ncols=1, title=title, title_fontsize=7)
    figure.legend(handles=devices, loc="outside lower center", ncols=3)
