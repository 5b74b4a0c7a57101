"""The points of each figure as rows, for the CSV file beside it: what is drawn, where, and which row it comes from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from repvgg_companion.errors import one_line
from repvgg_companion.files import csv_text, write_text
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import disturbing_flags
from repvgg_companion.paper.figure_ablations import ablation_columns, printed_ablations
from repvgg_companion.paper.figure_bars import FIGURE3_PAPER, FIGURE3_POINTS, kernel_rows, peak_rows
from repvgg_companion.paper.figure_proxies import PROXIES, proxy_panels
from repvgg_companion.paper.figure_roofline import roofline_of
from repvgg_companion.paper.figure_scatter import figure1_panels
from repvgg_companion.paper.figure_training import CURVES, trainings
from repvgg_companion.paper.named_checks import block_maps, block_rows
from repvgg_companion.paper.ours import Row, accuracy_sources
from repvgg_companion.paper.printed import printed_row

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class FigurePoint:
    """One drawn point or bar: both coordinates with their 95 % intervals, and the file and row behind it.

    A coordinate that is no number (the place of a bar) is empty. `disturbed` is `yes` where the point has a star.
    """

    panel: str
    series: str
    name: str
    x_quantity: str
    x: float | None
    x_low: float | None
    x_high: float | None
    y_quantity: str
    y: float | None
    y_low: float | None
    y_high: float | None
    source: str
    disturbed: str = ""


@dataclass(frozen=True)
class Axis:
    """One coordinate of a point: what it is, its value, its 95 % interval if it has one."""

    quantity: str = ""
    value: float | None = None
    interval: Interval = None


def point(where: tuple[str, str, str], x: Axis, y: Axis, source: str, *, disturbed: bool = False) -> FigurePoint:
    """A point in (panel, series, name) `where`."""
    (x_low, x_high), (y_low, y_high) = (axis.interval or (None, None) for axis in (x, y))
    star = "yes" if disturbed else ""
    return FigurePoint(
        *where, x.quantity, x.value, x_low, x_high, y.quantity, y.value, y_low, y_high, source, disturbed=star
    )


def write_points(path: Path, points: Sequence[FigurePoint]) -> None:
    """Write the CSV file beside a figure; numbers are given to eight digits."""
    names = [field.name for field in fields(FigurePoint)]
    rows = ([f"{cell:.8g}" if isinstance(cell, float) else cell for cell in astuple(one)] for one in points)
    write_text(path, csv_text([names, *rows]))


def _figure1(evidence: Evidence, _: list[Path] | None) -> Iterator[FigurePoint]:
    for panel in figure1_panels(evidence):
        for one in panel.points:
            x = Axis(one_line(panel.x_label), one.speed, one.speed_interval)
            y = Axis(one_line(panel.y_label), one.top1, one.top1_interval)
            series = f"{one.epochs} epochs" if one.epochs else "other images"
            yield point((one_line(panel.title), series, one.model), x, y, one.source, disturbed=one.disturbed)


def _figure3(evidence: Evidence, _: list[Path] | None) -> Iterator[FigurePoint]:
    rows = evidence.results.rows("memory")
    panel = "(a) feature maps alive between operators"
    for kind, values in FIGURE3_PAPER.items():
        for place, value in zip(FIGURE3_POINTS, values, strict=True):
            where = (panel, f"{kind}, paper", one_line(place))
            yield point(where, Axis(), Axis("in units of the input", float(value)), "the paper, Figure 3")
        for place, alive, row in zip(FIGURE3_POINTS, block_maps(rows, kind), block_rows(rows, kind), strict=False):
            where = (panel, f"{kind}, measured", one_line(place))
            yield point(where, Axis(), Axis("in units of the input", alive), _memory_source(row))
    for row in peak_rows(rows):
        x = Axis("peak memory (MiB)", row["peak_mib"])
        yield point(("(b) peak memory", f"{row['form']} form", row["model"]), x, Axis(), _memory_source(row))


def _memory_source(row: Row) -> str:
    return f"memory.csv {row['run_id']} {row['model']} {row['form']} {row['layer']}"


def _table1(evidence: Evidence, _: list[Path] | None) -> Iterator[FigurePoint]:
    for fact in evidence.facts.table("table1"):
        x = Axis("density (TFLOPS)", fact["density_tflops"])
        size = str(fact["kernel_size"])
        yield point(("(a) paper", "printed", size), x, Axis(), printed_row(evidence.facts, "table1", fact))
    for row in kernel_rows(evidence):
        low, high = row["tflops"] * row["time_ms"] / row["high_ms"], row["tflops"] * row["time_ms"] / row["low_ms"]
        where = ("(b) measured here", row["precision"], str(row["kernel_size"]))
        source = f"kernel_size.csv {row['run_id']} {row['kernel_size']}"
        x = Axis("density (TFLOPS)", row["tflops"], (low, high))
        yield point(where, x, Axis(), source, disturbed=bool(disturbing_flags(row)))


def _branches(evidence: Evidence, _: list[Path] | None) -> Iterator[FigurePoint]:
    printed = printed_ablations(evidence)
    for table, names in printed.items():
        for model, value in names.items():
            x = Axis("top-1 (%), ImageNet, 120 epochs", value)
            found = evidence.facts.trained(model)
            yield point((table, "printed", model), x, Axis(), printed_row(evidence.facts, *found) if found else "")
    for column in ablation_columns(evidence):
        for model, accuracy in column.accuracies.items():
            x = Axis(one_line(column.label), accuracy.top1, (accuracy.low, accuracy.high))
            for table in (table for table, names in printed.items() if model in names):
                where = (table, one_line(column.title), model)
                yield point(where, x, Axis(), "; ".join(accuracy_sources(accuracy.rows)))


def _proxies(evidence: Evidence, _: list[Path] | None) -> Iterator[FigurePoint]:
    for title, points in proxy_panels(evidence):
        for one in points:
            y = Axis("speed (examples/s)", one["speed"])
            for key, label in PROXIES.items():
                where = (one_line(title), label, one["model"])
                x = Axis(label, one[key] / 1e9)
                yield point(where, x, y, one["evidence"], disturbed=one["disturbed"])


def _roofline(evidence: Evidence, _: list[Path] | None) -> Iterator[FigurePoint]:
    found, run = roofline_of(evidence), evidence.speeds
    if found is None or run is None:
        return
    for place in found.places:
        source = f"{run.row_source(place.model, place.form)}; runs/{run.run_id}.json"
        star = place.disturbed
        x, y = Axis("operations per byte", place.intensity), Axis("Gop/s", place.operations_per_s / 1e9)
        yield point(("(a) whole networks below the ceilings", place.form, place.model), x, y, source, disturbed=star)
        x = Axis("share of the roofline (%)", 100 * place.share)
        yield point(("(b) share of the roofline", place.form, place.model), x, Axis(), source, disturbed=star)


def _training(evidence: Evidence, histories: list[Path] | None) -> Iterator[FigurePoint]:
    for run in trainings(evidence, histories):
        for row in run.epochs:
            x = Axis("epoch", float(row["epoch"]))
            for column, (label, _) in CURVES.items():
                if row[column] is not None:
                    yield point((run.dataset, label, run.model), x, Axis(label, row[column]), run.source)


POINTS: dict[str, Callable[[Evidence, list[Path] | None], Iterator[FigurePoint]]] = {
    "figure1": _figure1,
    "figure3": _figure3,
    "table1": _table1,
    "branches": _branches,
    "proxies": _proxies,
    "roofline": _roofline,
    "training": _training,
}
"""The points of each figure of the verb `figures`; the second argument are the files of the trainings."""
