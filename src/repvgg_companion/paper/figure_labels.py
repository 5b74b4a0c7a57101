"""Where the labels of the points of a panel stand, and their leader lines: candidates around each point, by cost.

A leader line ends at the edge of its own marker. It may not run below another marker, which would then seem to be the
one that is named; so the leaders are part of the cost, as are other labels, markers and lines.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, Any]
_ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_GAPS_POINTS = (0.5, 1.2, 2.5, 5, 8, 12, 17, 23, 30, 38)
"""Between the edge of a marker and its label."""
_MARKER_POINTS, _MARGIN_POINTS, _SHORT_POINTS = 2.4, 0.6, 2.0
"""Half a marker, the space around labels, and the longest gap that needs no leader."""
_SWEEPS = 30
_COVERS, _OUTSIDE, _WRONG_END, _UNDER, _BEHIND, _CROSSES, _ON_LINE, _FAR = 900, 900, 700, 500, 250, 120, 4, 1
"""Costs: a label covers a label or marker; lies outside; a leader ends nearer to another point; runs below its marker;
runs behind a label; crosses a leader. Then each sampled point of a line below a label, and each point (pt) of gap."""


@dataclass(frozen=True)
class _Candidates:
    """Places of one label: boxes (left, bottom, right, top), both ends of the leaders, in pixels; and their costs."""

    boxes: Array
    starts: Array
    ends: Array
    costs: Array


@dataclass(frozen=True)
class _Panel:
    """What the labels share, in pixels: points, samples along the lines, the inner box, and the size of a point."""

    centres: Array
    obstacles: Array
    inside: Array
    pixels: float


def separate_labels(
    axes: "Axes", points: list[tuple[float, float, str, str]], lines: list[list], size: float = 7
) -> None:
    """Write a label of `size` points beside each point (x, y, text, colour) that covers no marker, line or other label.

    `lines` are the [(x, y), ...] that join points. The figure's layout must be frozen.
    """
    from matplotlib.collections import LineCollection

    if not points:
        return
    pixels = axes.figure.dpi / 72
    # Legible where a crowded panel leaves only a place on a line.
    box = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "alpha": 0.75, "pad": 0.2}
    texts = [
        axes.text(x, y, text, color=colour, fontsize=size, ha="center", va="center", bbox=box)
        for x, y, text, colour in points
    ]
    centres = axes.transData.transform([point[:2] for point in points])
    along = [
        np.linspace(axes.transData.transform(start), axes.transData.transform(end), 40)
        for line in lines
        for start, end in pairwise(line)
    ]
    obstacles = np.concatenate(along) if along else np.empty((0, 2))
    panel = _Panel(centres, obstacles, np.array(axes.get_window_extent().extents), pixels)
    extents = [text.get_window_extent() for text in texts]
    sizes = [np.array([extent.width + _MARGIN_POINTS * pixels, extent.height]) for extent in extents]
    places = [_candidates(panel, number, extent) for number, extent in enumerate(sizes)]
    leaders = []
    to_data = axes.transData.inverted().transform
    for number, (text, place, chosen) in enumerate(zip(texts, places, _chosen(places), strict=True)):
        left, bottom, right, top = place.boxes[chosen]
        x, y = to_data(((left + right) / 2, (bottom + top) / 2))
        text.set_position((x, y))
        ends = np.array([place.starts[chosen], place.ends[chosen]])
        if np.hypot(*(ends[0] - ends[1])) > _SHORT_POINTS * pixels or _is_ambiguous(number, centres, ends[0]):
            leaders.append(to_data(ends))
    axes.add_collection(LineCollection(leaders, colors="#9a9a9a", linewidths=0.4, zorder=2.2), autolim=False)


def _candidates(panel: _Panel, number: int, size: Array) -> _Candidates:
    """All places of the label of the point `number` and what each costs whatever the other labels do."""
    pixels, inside = panel.pixels, panel.inside
    own, others = panel.centres[number], np.delete(panel.centres, number, axis=0)
    marker = _MARKER_POINTS * pixels
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    gaps = np.repeat(np.array(_GAPS_POINTS) * pixels, len(directions))[:, None]
    half = size / 2
    middles = own + np.tile(directions, (len(_GAPS_POINTS), 1)) * (half + marker + gaps)
    boxes = np.concatenate([middles - half, middles + half], axis=1)
    starts = np.clip(own, boxes[:, :2], boxes[:, 2:])  # the point of the box that is nearest to its own point
    towards = starts - own
    lengths = np.maximum(np.hypot(*towards.T), 1e-9)[:, None]
    ends = own + towards / lengths * np.minimum(marker, lengths)
    costs = _FAR * lengths[:, 0] / pixels
    covered = _near(boxes, others, marker).sum(axis=1) + (lengths[:, 0] < 1.1 * marker)
    costs = costs + _COVERS * covered + _ON_LINE * _near(boxes, panel.obstacles, 0.5 * pixels).sum(axis=1)
    outside = (boxes[:, :2] < inside[:2]).any(axis=1) | (boxes[:, 2:] > inside[2:]).any(axis=1)
    costs = costs + _OUTSIDE * outside
    if len(others):
        under = _distance(others, starts, ends) < 1.15 * marker
        wrong = np.hypot(*(ends[:, None] - others).T).min(axis=0) <= np.hypot(*(ends - own).T)
        costs = costs + _UNDER * under.sum(axis=1) + _WRONG_END * wrong
    return _Candidates(boxes, starts, ends, costs)


def _chosen(places: list[_Candidates]) -> list[int]:
    """The place of each label: one label at a time moves to its cheapest place, until none moves."""
    chosen = [int(place.costs.argmin()) for place in places]
    order = sorted(range(len(places)), key=lambda number: -float(np.sort(places[number].costs)[:8].mean()))
    for _ in range(_SWEEPS):
        before = list(chosen)
        for number in order:
            mine = places[number]
            costs = mine.costs.copy()
            for other, at in enumerate(chosen):
                if other != number:
                    costs += _between(mine, places[other], at)
            chosen[number] = int(costs.argmin())
        if chosen == before:
            break
    return chosen


def _between(mine: _Candidates, other: _Candidates, at: int) -> Array:
    """What each of my places costs beside another label in its place `at`."""
    box, start, end = other.boxes[at], other.starts[at], other.ends[at]
    overlap = (mine.boxes[:, :2] < box[2:]).all(axis=1) & (mine.boxes[:, 2:] > box[:2]).all(axis=1)
    steps = np.linspace(0, 1, 14)[:, None]
    theirs = start + steps * (end - start)
    behind = _near(mine.boxes, theirs, 0).any(axis=1)
    own = mine.starts[:, None] + steps * (mine.ends - mine.starts)[:, None]
    behind = behind + _near(box[None], own.reshape(-1, 2), 0).reshape(len(own), -1).any(axis=1)
    crossing = (_side(start, end, mine.starts) * _side(start, end, mine.ends) < 0) & (
        _side(mine.starts, mine.ends, start) * _side(mine.starts, mine.ends, end) < 0
    )
    return _COVERS * overlap + _BEHIND * behind + _CROSSES * crossing


def _near(boxes: Array, points: Array, margin: float) -> Array:
    """For each box and point, whether the point lies in the box or less than `margin` beside it."""
    low, high = boxes[:, None, :2] - margin, boxes[:, None, 2:] + margin
    within: Array = np.logical_and(points > low, points < high)
    return np.asarray(within.all(axis=2))


def _distance(points: Array, starts: Array, ends: Array) -> Array:
    """The distance of each point from each segment; one row a segment."""
    along = (ends - starts)[:, None]
    lengths = np.maximum((along**2).sum(axis=2), 1e-9)
    share = np.clip(((points - starts[:, None]) * along).sum(axis=2) / lengths, 0, 1)
    found: Array = np.hypot(*np.moveaxis(points - starts[:, None] - share[..., None] * along, 2, 0))
    return found


def _side(start: Array, end: Array, point: Array) -> Array:
    """On which side of the line from `start` to `end` a point lies, as the sign."""
    along, towards = end - start, point - start
    side: Array = along[..., 0] * towards[..., 1] - along[..., 1] * towards[..., 0]
    return side


def _is_ambiguous(number: int, centres: Array, start: Array) -> bool:
    """Whether another point is about as near to a label as its own, so that only a leader tells which it names."""
    distances = np.hypot(*(centres - start).T)
    return bool((np.delete(distances, number) < 1.6 * distances[number]).any())
