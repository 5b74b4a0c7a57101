"""Figure 1 on devices that others measured: the printed accuracy against published speeds of the converted networks."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repvgg_companion.evidence.from_others import SpeedTable
from repvgg_companion.evidence.third_party import DEVICES, PublishedSpeed
from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.figure_scatter import Panel, PlottedPoint, draw_panel, inferred_label, write_labels
from repvgg_companion.paper.figure_style import SERIES, empty_panel, family, freeze_layout
from repvgg_companion.paper.printed import Facts, printed_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAPS = {
    "RepVGG-B1g2": "which timm does not have",
    "RepVGG-B2g2": "which timm does not have",
    "EfficientNet-B3": "timed at 288 and 320 px only, not at the paper's 300 px",
}
"""Networks of Figure 1 that no published table has at the paper's input size, and why; a panel may lack them."""
PRECISION = "amp-fp16"
"""Mixed precision with fp16, in which every device with a panel was measured."""
_ENGINES = {"eager": "eager", "compile": "compiled"}
_PAGE_INCHES, _TEXT_POINTS = 7.0, 7


@dataclass(frozen=True)
class OthersPanel:
    """One device and engine: the rows that are drawn, and their points."""

    table: SpeedTable
    rows: tuple[PublishedSpeed, ...]
    points: tuple[PlottedPoint, ...]

    @property
    def device(self) -> str:
        """Such as `RTX 4090`."""
        return self.rows[0].device

    @property
    def title(self) -> str:
        """Who measured, device, engine, precision, batch sizes and version of torch, on two lines."""
        first = self.rows[0]
        sizes = [row.batch_size for row in self.rows]
        usual = max(sorted(set(sizes)), key=sizes.count)
        others = [f"{row.model} {row.batch_size}" for row in self.rows if row.batch_size != usual]
        batch = f"batch {usual}" + (f" ({', '.join(others)})" if others else "")
        who = f"measured by others (timm): {first.device}, {_ENGINES[first.backend]},"
        return f"{who}\n{first.precision}, {batch}, torch {first.torch}"


def others_panels(facts: Facts, tables: Sequence[SpeedTable]) -> list[OthersPanel]:
    """A panel for each device and engine with all networks of Figure 1 but `GAPS`, RepVGG in its deploy form.

    Each network is at the paper's input size. Of several tables in `PRECISION` the newest is drawn.
    """
    chosen: dict[tuple[str, str], OthersPanel] = {}
    for table in tables:
        panel = _panel(facts, table)
        if panel is None:
            continue
        first = panel.rows[0]
        drawn = chosen.get((first.device, first.backend))
        if first.precision == PRECISION and (drawn is None or first.published > drawn.rows[0].published):
            chosen[first.device, first.backend] = panel
    order = [(device, engine) for device in dict.fromkeys(DEVICES.values()) for engine in _ENGINES]
    return [chosen[key] for key in order if key in chosen]


def _panel(facts: Facts, table: SpeedTable) -> OthersPanel | None:
    figure = facts.table("figure1")
    rows = {}
    for model in dict.fromkeys(fact["model"] for fact in figure):
        row = table.by_model.get(model)
        if row is not None and row.form != "train" and row.input_px == MODELS[model].input_px:
            rows[model] = row
        elif model not in GAPS:
            return None
    points = [
        PlottedPoint(
            fact["model"],
            rows[fact["model"]].images_per_s,
            fact["top1_pct"],
            label=inferred_label(fact),
            epochs=fact["epochs"],
            source=printed_row(facts, "figure1", fact),
        )
        for fact in figure
        if fact["model"] in rows
    ]
    return OthersPanel(table, tuple(rows.values()), tuple(points))


def figure1_others(panels: Sequence[OthersPanel], tables: Sequence[SpeedTable]) -> "Figure":
    """Two panels a row at the width of a page; below them what is left out and why."""
    import matplotlib.pyplot as plt

    n_rows = max(1, (len(panels) + 1) // 2)
    sizes: dict[Any, float] = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), _TEXT_POINTS)
    with plt.rc_context(sizes | {"lines.markersize": 4.5, "lines.markeredgewidth": 0.7}):
        figure, grid = plt.subplots(
            n_rows, 2, figsize=(_PAGE_INCHES, 2.5 * n_rows + 1.0), sharey=bool(panels), squeeze=False
        )
        drawn = []
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                empty_panel(axes, "" if panels else "no published table has all networks of Figure 1")
                continue
            panel = Panel(
                f"({'abcdefghijklmnop'[place]}) {panels[place].title}",
                list(panels[place].points),
                "speed (images/s)" if place >= len(panels) - 2 else "",
                "printed top-1 (%)" if place % 2 == 0 else "",
                by_others=True,
            )
            drawn.append((axes, panel, draw_panel(axes, panel)))
        _legend(figure, [point.model for panel in panels for point in panel.points])
        figure.supxlabel(textwrap.fill(caption(panels, tables), 132), fontsize=_TEXT_POINTS, ha="left", x=0.01)
        freeze_layout(figure)
        for axes, panel, lines in drawn:
            write_labels(axes, panel, lines, _TEXT_POINTS)
    return figure


def _legend(figure: "Figure", models: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    families = {family(model) for model in models}
    handles = [
        Line2D([], [], color=series.colour, marker=series.marker, markerfacecolor="white",
               linestyle="-" if series.line else "", label=name)
        for name, series in SERIES.items() if name in families
    ]  # fmt: skip
    note = "open: speed by others; dot inside: 200 epochs, else 120"
    handles.append(Line2D([], [], linestyle="", label=note))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def caption(panels: Sequence[OthersPanel], tables: Sequence[SpeedTable]) -> str:
    """Which networks and devices are left out and why, and what differs from the paper's protocol in all panels."""
    drawn = {row.model for panel in panels for row in panel.rows}
    missing: dict[str, list[str]] = {}
    for model, why in GAPS.items():
        if model not in drawn:
            missing.setdefault(why, []).append(model)
    words = "; ".join(f"{' and '.join(models)}, {why}" for why, models in missing.items())
    sentences = [f"Not drawn: {words}."] if words else []
    shown = {panel.device for panel in panels}
    train_only: list[str] = []
    others: list[str] = []
    for device in (name for name in dict.fromkeys(DEVICES.values()) if name not in shown):
        forms = {row.form for table in tables for row in table.by_model.values() if row.device == device}
        if forms:
            (others if "deploy" in forms else train_only).append(device)
    if train_only:
        sentences.append(f"No panel: {', '.join(train_only)}, where RepVGG was timed in its train form only.")
    if others:
        sentences.append(f"No panel: {', '.join(others)}, where other networks are missing too.")
    sentences.append(f"Of the tables of a device and engine the newest in {PRECISION} is drawn.")
    differing = [panel.table.differs(row.model for row in panel.rows) for panel in panels]
    common = [text for text in differing[0] if all(text in one for one in differing)] if differing else []
    if common:
        sentences.append(f"Unlike the paper, in all panels: {'; '.join(common)}.")
    return " ".join(sentences)
