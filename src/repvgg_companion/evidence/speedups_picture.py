"""The picture "Do the speed-ups last?": the paper's nine speed ratios on every device and engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

from repvgg_companion.evidence.from_others import SpeedTable
from repvgg_companion.evidence.third_party import DEVICES, SPEED_FILE
from repvgg_companion.paper.comparable_runs import BEST, comparable_runs
from repvgg_companion.paper.figure_captions import disturbed_speeds
from repvgg_companion.paper.figure_style import (
    BLUE,
    COLUMN_INCHES,
    GREY,
    OURS_COLOUR,
    STAR,
    STAR_WORDS,
    named_bands,
    short,
)
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
_REDUCED_COLOUR = "#f4a86f"
"""Of a ratio that was measured here in a precision below fp32."""
_BAND_HEIGHT, _OUR_LANE = 0.84, 1.7
"""Of the lanes of a pair together, the pairs being 1 apart; and of a lane with stars, the others being 1."""


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
    batch_size: int = 0
    """Of a ratio measured here."""
    disturbed: bool = False
    """Whether one of both speeds was disturbed beyond the limits of its measurement."""


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
                span = (found.low, found.high)
                disturbed = bool(run.disturbances([top, bottom]))
                yield SpeedUp(pair, HERE, run.device, setting, found.value, span, source, run.batch_size, disturbed)


def printed_ratio(facts: Facts, pair: tuple[str, str]) -> float:
    """The ratio of the printed speeds; raises NotAvailable if one is not printed."""
    top, bottom = (facts.printed(Quantity("speed", name)) for name in pair)
    return top / bottom


def speedups_caption(points: Sequence[SpeedUp]) -> str:
    """What is drawn, what tells the points of one device apart, and what a star means."""
    words = (
        "The paper's nine ratios of speed: images/s of the first network over those of the second, each at its own "
        "input size. Grey: printed for a GTX 1080 Ti. Filled: measured here, with 95 % intervals over the rounds (by "
        "the paper's protocol: the batches) of one run. Open: published by timm for other devices, without intervals."
    )
    ours = [point for point in points if point.lane == HERE]
    if ours:
        devices = sorted({point.device for point in ours})
        parts = (f"{device}, {_settings([point for point in ours if point.device == device])}" for device in devices)
        words += (
            f" The points of a device are its precisions and engines, from top to bottom: {'; '.join(parts)}. Points "
            "below fp32 are lighter. The CSV file beside the figure names the setting of each point."
        )
    return words + disturbed_speeds(point.disturbed for point in ours)


def _settings(points: Sequence[SpeedUp]) -> str:
    """`batch 1 (A0 / ResNet-18: 8), bf16 (eager, fused) and fp32 (eager)`: the settings of one device."""
    engines: dict[str, set[str]] = {}
    for point in points:
        precision, _, engine = point.setting.partition(", ")
        engines.setdefault(precision, set()).add(engine)
    batches = [point.batch_size for point in {point.pair: point for point in points}.values()]
    usual = max(sorted(set(batches)), key=batches.count)
    others = dict.fromkeys(
        f"{short(point.pair[0])} / {point.pair[1]}: {point.batch_size}" for point in points if point.batch_size != usual
    )
    batch = f"batch {usual}" + (f" ({', '.join(others)})" if others else "")
    named = [f"{precision} ({', '.join(sorted(engines[precision]))})" for precision in sorted(engines)]
    return f"{batch}, {' and '.join([', '.join(named[:-1]), named[-1]] if len(named) > 1 else named)}"


def speedups_figure(facts: Facts, points: Sequence[SpeedUp]) -> "Figure":
    """One band a pair: the printed ratio as a grey bar, and a lane for each kind of measurement."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 7.2))
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
    reduced = any(point.lane == HERE and not point.setting.startswith("fp32") for point in points)
    _legends(figure, ours, starred=any(point.disturbed for point in points), reduced=reduced)
    return figure


def _draw_pair(axes: "Axes", place: int, points: Sequence[SpeedUp], printed: float, ours: Mapping[str, str]) -> None:
    axes.plot(
        [printed] * 2, [place - 0.45, place + 0.45], color="#b5b5b5", linewidth=3.5, solid_capstyle="butt", zorder=1
    )
    lanes = [*((HERE, device) for device in ours), *((lane, "") for lane in (EAGER, COMPILED, TRAIN))]
    heights = [_OUR_LANE if lane == HERE else 1.0 for lane, _ in lanes]
    heights = [_BAND_HEIGHT * height / sum(heights) for height in heights]
    edge = place - _BAND_HEIGHT / 2
    for (lane, device), height in zip(lanes, heights, strict=True):
        colour = LANES[lane]
        mine = [point for point in points if point.lane == lane and device in ("", point.device)]
        centre, edge = edge + height / 2, edge + height
        for number, point in enumerate(sorted(mine, key=_order)):
            spread = 0.8 * height * (number / (len(mine) - 1) - 0.5) if len(mine) > 1 else 0.0
            y = centre + spread
            if point.interval is not None:
                colour = LANES[lane] if point.setting.startswith("fp32") else _REDUCED_COLOUR
                axes.plot(point.interval, [y, y], color=colour, linewidth=0.7, zorder=2)
                axes.plot(point.ratio, y, ours[point.device], color=colour, markersize=2.4, zorder=3)
                if point.disturbed:  # the star fills the upper half of its line only
                    axes.annotate(STAR, (point.ratio, y), (2.5, -2.4), textcoords="offset points", fontsize=7,
                                  ha="center", va="bottom", zorder=4)  # fmt: skip
            else:
                axes.plot(point.ratio, y, _MARKERS[point.device], markerfacecolor="none", markeredgecolor=colour,
                          markeredgewidth=0.7, markersize=3.4, zorder=3)  # fmt: skip


def _order(point: SpeedUp) -> tuple[str, float]:
    """Where a point stands among those of its lane: ours by setting, as the caption lists them; others by ratio."""
    return (point.setting if point.lane == HERE else "", point.ratio)


def _legends(figure: "Figure", ours: Mapping[str, str], *, starred: bool, reduced: bool) -> None:
    from matplotlib.lines import Line2D

    lanes = [Line2D([], [], color="#b5b5b5", linewidth=3.5, label="printed: GTX 1080 Ti, fp32")]
    lanes += [Line2D([], [], color=LANES[HERE], marker=marker, markersize=2.4, linewidth=0.7,
                     label=f"{HERE}, 95 % interval:\n{device}") for device, marker in ours.items()]  # fmt: skip
    lanes += [Line2D([], [], color=_REDUCED_COLOUR, marker="o", markersize=2.4, linewidth=0.7,
                     label="lighter: bf16 or tf32")] if reduced else []  # fmt: skip
    lanes += [Line2D([], [], linestyle="", marker="o", markerfacecolor="none", markeredgecolor=LANES[lane],
                     label=lane) for lane in (EAGER, COMPILED, TRAIN)]  # fmt: skip
    lanes += [Line2D([], [], linestyle="", label=STAR_WORDS)] if starred else []
    devices = [Line2D([], [], linestyle="", marker=marker, markerfacecolor="none", markeredgecolor="#333333",
                      label=name) for name, marker in _MARKERS.items()]  # fmt: skip
    title = "lanes of each pair, from top to bottom"
    figure.legend(handles=lanes, loc="outside upper center", ncols=1, title=title, title_fontsize=7)
    figure.legend(handles=devices, loc="outside lower center", ncols=3)
