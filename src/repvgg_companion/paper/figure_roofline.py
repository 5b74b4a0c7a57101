"""The roofline figure: whole networks below the measured ceilings of their run, and each one's share of the roofline.

The ceilings, and what a batch computes and moves, are those that the measuring run wrote into its JSON file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import disturbing_flags
from repvgg_companion.paper.figure_bars import form_bars
from repvgg_companion.paper.figure_style import (
    COLUMN_INCHES,
    SERIES,
    empty_panel,
    family,
    family_legend,
    plain_ticks,
    wrapped,
)
from repvgg_companion.paper.ours import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BAR_INCHES = 0.095


@dataclass(frozen=True)
class Place:
    """One measured network under its roofline: operations per byte, operations per second, share of the roofline."""

    model: str
    form: str
    intensity: float
    operations_per_s: float
    share: float
    disturbed: bool = False


@dataclass(frozen=True)
class Roofline:
    """The ceilings of one run and its networks; compute in operations/s, memory in bytes/s."""

    operations_per_s: float
    bytes_per_s: float
    how: str
    places: tuple[Place, ...]


def roofline_of(evidence: Evidence) -> Roofline | None:
    """The networks of the widest run that has ceilings; None where none was measured."""
    run = evidence.speeds
    if run is None:
        return None
    rows = [row for row in run.rows.values() if row.get("roofline_share") is not None]
    found = _run(rows[0]) if rows else None
    if not found:
        return None
    ceiling = next((part for part in found.get("ceilings", []) if part["precision"] == run.precision), None)
    work = {
        (part["model"], part["form"], part["batch_size"], part["input_px"]): part
        for part in found.get("work", [])
        if part["precision"] == run.precision
    }
    places = []
    for row in rows:
        part = work.get((row["model"], row["form"], row["batch_size"], row["input_px"]))
        if part is not None:
            rate = part["operations"] * row["examples_per_s"] / row["batch_size"]
            intensity = part["operations"] / part["bytes"]
            disturbed = bool(disturbing_flags(row))
            places.append(Place(row["model"], row["form"], intensity, rate, row["roofline_share"], disturbed))
    if ceiling is None or not places:
        return None
    return Roofline(ceiling["operations_per_s"], ceiling["bytes_per_s"], ceiling["how"], tuple(places))


def why_no_roofline(evidence: Evidence) -> str:
    """The reason where `roofline_of` finds nothing."""
    return evidence.why_no_speeds or "no ceilings were measured"


def _run(row: Row) -> dict[str, Any] | None:
    try:
        return read_json(Path(row["_folder"]) / "runs" / f"{row['run_id']}.json")
    except CompanionError:
        return None


def roofline(evidence: Evidence) -> "Figure":
    """Operations per second against operations per byte below the measured ceilings; shares of the roofline."""
    import matplotlib.pyplot as plt

    found = roofline_of(evidence)
    models = list(dict.fromkeys(place.model for place in found.places)) if found else []
    bars = len(found.places) if found else 0
    heights = (2.4, 0.5 + _BAR_INCHES * max(8, bars + 0.4 * len(models)))
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(COLUMN_INCHES, sum(heights) + 0.5), height_ratios=heights)
    top.set_title("(a) whole networks below the ceilings")
    bottom.set_title("(b) share of the roofline, layer by layer", pad=14)  # the legend stands below it
    if found is None:
        for axes in (top, bottom):
            empty_panel(axes, why_no_roofline(evidence))
        return figure
    _draw_roof(top, found)
    _draw_shares(bottom, found)
    starred = any(place.disturbed for place in found.places)
    family_legend(figure, [family(model) for model in models], open_markers="open: train form", starred=starred)
    if evidence.speeds:
        figure.supxlabel(f"{evidence.speeds.device}\n{evidence.speeds.details}", fontsize=7)
    return figure


def _draw_roof(axes: "Axes", found: Roofline) -> None:
    low = min(place.intensity for place in found.places) / 2
    high = max(place.intensity for place in found.places) * 2
    ridge = found.operations_per_s / found.bytes_per_s
    low, high = min(low, ridge / 2), max(high, ridge * 2)
    giga = 1e-9
    axes.plot(
        [low, ridge, high],
        [value * giga for value in (low * found.bytes_per_s, found.operations_per_s, found.operations_per_s)],
        color="#444444",
        linewidth=1.0,
    )
    compute, memory = found.operations_per_s * giga, found.bytes_per_s * giga
    axes.annotate(
        f"{compute:,.0f} Gop/s:\n{wrapped(found.how, 28)}", (high, compute), (0, 1), ha="right", va="bottom",
        textcoords="offset points",
    )  # fmt: skip
    axes.annotate(
        f"{memory:,.0f} GB/s: copy", (low, low * memory), (8, 0), ha="left", va="top", textcoords="offset points"
    )
    for place in found.places:
        series = SERIES[family(place.model)]
        axes.plot(
            place.intensity,
            place.operations_per_s * giga,
            marker=series.marker,
            linestyle="",
            color=series.colour,
            markersize=3.5,
            markerfacecolor="white" if place.form == "train" else series.colour,
            markeredgewidth=0.7,
        )
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="Gop/s (a multiply-add is two)")
    axes.margins(y=0.42)
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)


def _draw_shares(axes: "Axes", found: Roofline) -> None:
    places = {(place.model.removeprefix("RepVGG-"), place.form): place for place in found.places}
    stars = {key for key, place in places.items() if place.disturbed}
    form_bars(axes, {key: 100 * place.share for key, place in places.items()}, starred=stars)
    # Winograd's algorithm needs less than the direct convolution that the roofline counts.
    most = max(100 * place.share for place in found.places)
    axes.set(xlabel="share of the roofline (%)", xlim=(0, max(100, 1.05 * most)))
    if most > 100:
        axes.axvline(100, color="#444444", linewidth=1.0)
