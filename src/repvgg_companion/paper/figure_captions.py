"""The caption of each figure: what is drawn, in which unit, on which device and images, from how many samples."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from repvgg_companion.errors import counted, one_line
from repvgg_companion.files import write_text
from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.accuracies import Accuracy
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import DISTURBED, disturbing_flags
from repvgg_companion.paper.figure_ablations import ablation_columns, seeds_or_images, several_seeds
from repvgg_companion.paper.figure_bars import kernel_rows, kernel_setting, memory_setting, peak_rows
from repvgg_companion.paper.figure_proxies import proxy_panels
from repvgg_companion.paper.figure_roofline import roofline_of, why_no_roofline
from repvgg_companion.paper.figure_scatter import Panel, figure1_panels
from repvgg_companion.paper.figure_style import PAPER_DEVICE, STAR, short
from repvgg_companion.paper.figure_training import trainings
from repvgg_companion.paper.latex import as_figure
from repvgg_companion.paper.named_checks import block_rows

Histories = list[Path] | None
MEASURED_ONLY = ("roofline", "training")
"""Figures without values of the paper."""


def write_caption(stem: Path, words: str, label: str, printed: bool = True) -> None:
    """Write `stem`.md and `stem`.tex, which holds a figure environment; `printed`: it has values of the paper."""
    write_text(stem.with_suffix(".md"), words + "\n")
    write_text(stem.with_suffix(".tex"), as_figure(stem.name, words, label, printed))


def caption(name: str, evidence: Evidence, histories: Histories) -> str:
    """The caption of the figure `name` of the verb `figures`."""
    return CAPTIONS[name](evidence, histories) + images(evidence)


def images(evidence: Evidence) -> str:
    """The last sentence of every caption of an experiment on other images than the paper's."""
    others = evidence.results.other_datasets
    return (
        f" The images of this experiment are {', '.join(others)}, not ImageNet: no result of the paper."
        if others
        else ""
    )


def disturbed_speeds(disturbed: Iterable[bool]) -> str:
    """The sentence that explains the stars of a figure, from which of its speeds were disturbed; empty without any."""
    return f" {STAR}: disturbed speed ({', '.join(DISTURBED)}), which decides no claim." if any(disturbed) else ""


def panel_caption(panel: Panel) -> str:
    """The caption of one panel of Figure 1."""
    if not panel.points:
        return f"{panel.title}."
    labels = (panel.y_label.replace(":\n", ": "), panel.x_label.replace("\nrecipe: ", "; recipe: "))
    y, x = map(_joined, labels)
    has_bars = any(point.speed_interval for point in panel.points)
    bars = " Bars: 95 % intervals, some smaller than the marker." if has_bars else ""
    return f"{panel.title}: {y} against {x}.{bars}"


def _joined(label: str, between: str = ", ") -> str:
    """A label of a figure on one line; its first lines are parts, and the others are wrapped text."""
    return one_line(label.replace("\n", between, 1 if between != ", " else 2))


def _figure1(evidence: Evidence, _: Histories) -> str:
    panels = figure1_panels(evidence)
    return f"Accuracy against speed. {' '.join(map(panel_caption, panels))}{panel_notes(panels)}"


def panel_notes(panels: list[Panel]) -> str:
    """What lines, brackets and stars mean, as far as the panels have them."""
    drawn = [panel for panel in panels if panel.points]
    joined = sum(panel.tint is None for panel in drawn)
    others = ", except on other images than the paper's" if joined < len(drawn) else ""
    words = f" Lines join the networks of a family{others}." if joined else ""
    points = [point for panel in drawn for point in panel.points]
    if any(point.label for point in points):
        words += " A name in brackets with a question mark is a point that the paper does not label."
    return words + disturbed_speeds(point.disturbed for point in points)


def _figure3(evidence: Evidence, _: Histories) -> str:
    rows = evidence.results.rows("memory")
    peaks = peak_rows(rows)
    words = ("Memory. (a) Feature maps alive between operators, in units of the block's input, at the four points of "
             "the paper's Figure 3: open markers as the paper counts them")  # fmt: skip
    measured = list(dict.fromkeys(row["model"] for kind in ("residual", "plain") for row in block_rows(rows, kind)))
    words += f", filled ones measured on {' and '.join(measured)}." if measured else "."
    if peaks:
        words += (f" (b) Peak memory of whole networks in MiB, weights included: {peaks[0]['device']}, "
                  f"{memory_setting(peaks)}, one pass each.")  # fmt: skip
    return words


def _table1(evidence: Evidence, _: Histories) -> str:
    words = (f"Computational density in TFLOPS (2 operations a multiply-add) by kernel size. (a) Printed in Table 1: "
             f"{PAPER_DEVICE.split(',')[0]}, fp32, 2048 channels, batch 32, 56 px, 10 runs; the bar of 5x5 is a "
             f"misprint, since the time beside it gives 10.05 (in brackets).")  # fmt: skip
    if rows := kernel_rows(evidence):
        words += f" (b) Measured on {rows[0]['device']}: {kernel_setting(rows[0])}; thin lines: 95 % intervals."
        words += disturbed_speeds(bool(disturbing_flags(row)) for row in rows)
    return words


def _branches(evidence: Evidence, _: Histories) -> str:
    columns = ablation_columns(evidence)
    printed = "Left: printed" if columns else "Printed"
    words = ("Top-1 accuracy (%) of RepVGG-B0 with other branches in its blocks (Table 6) and other structures "
             f"that are re-parameterized (Table 7). {printed} in these tables, ImageNet, 120 epochs.")  # fmt: skip
    for column in columns:
        over = seeds_or_images(column.accuracies)
        first = next(iter(column.accuracies.values())).rows[0]
        images_of = f"{_forms(column.accuracies)}, {first['n_images']:,} images"
        dots = ", small dots: single seeds" if any(map(several_seeds, column.accuracies.values())) else ""
        words += f" Beside them: {_joined(column.label, ': ')}, {images_of}; bars: 95 % intervals over {over}{dots}."
    return words


def _forms(accuracies: Mapping[str, Accuracy]) -> str:
    """`deploy form (B0_residual-reorg: train form, since it cannot be converted)`: the forms of a column."""
    forms = {model: accuracy.rows[0]["form"] for model, accuracy in accuracies.items()}
    usual = max(sorted(set(forms.values())), key=list(forms.values()).count)
    others = [model for model, form in forms.items() if form != usual]
    if not others:
        return f"{usual} form"
    why = ", since it cannot be converted" if len(others) == 1 else ", since they cannot be converted"
    kept = "" if any(MODELS[model].convertible for model in others) else why
    return f"{usual} form ({' and '.join(map(short, others))}: {forms[others[0]]} form{kept})"


def _proxies(evidence: Evidence, _: Histories) -> str:
    columns = proxy_panels(evidence)
    stars = disturbed_speeds(point["disturbed"] for _, points in columns for point in points)
    panels = "; ".join(f"{_joined(title)}, {counted(len(points), 'network')}" for title, points in columns)
    return (f"Speed (examples/s) against FLOPs (multiply-adds) and against the multiplications of Winograd's algorithm "
            "(billions), with Spearman's rank correlation and the 95 % interval that it would have for a random sample "
            "of as many networks; these networks are not one, so it decides no claim. From top to bottom: "
            f"{panels}. A panel has the networks of Table 4 with a speed and both counts.{stars}")  # fmt: skip


def _roofline(evidence: Evidence, _: Histories) -> str:
    found, run = roofline_of(evidence), evidence.speeds
    if found is None or run is None:
        return f"Roofline: {why_no_roofline(evidence)}."
    return (f"(a) Operations per second of whole networks against operations per byte, below the measured ceilings "
            f"({found.operations_per_s / 1e9:,.0f} Gop/s, {found.how}; {found.bytes_per_s / 1e9:,.0f} GB/s, copy). "
            f"(b) Share of the roofline that each network reaches, the roofline taken layer by layer. {run.device}, "
            f"{run.details}.{disturbed_speeds(place.disturbed for place in found.places)}")  # fmt: skip


def _training(evidence: Evidence, histories: Histories) -> str:
    runs = trainings(evidence, histories)
    datasets = ", ".join(dict.fromkeys(run.dataset for run in runs))
    recipes = sorted({row["recipe"] for row in evidence.results.rows("accuracy") if row["recipe"]})
    named = f" (recipe{'s' * (len(recipes) > 1)}: {', '.join(recipes)})" if recipes else ""
    single = [len(run.epochs) == 1 for run in runs]
    drawn, marks = "lines", ("solid", "dashed")
    if all(single):
        drawn, marks = "points", ("dot", "cross")
    elif any(single):
        drawn, marks = "lines (points where it has one epoch)", ("solid or dot", "dashed or cross")
    return (f"Training curves of {counted(len(runs), 'training')} on {datasets}{named}, one panel a network, one pair "
            f"of {drawn} a training: top-1 on the validation images (%, {marks[0]}, left) and mean training loss "
            f"({marks[1]}, right) by epoch.")  # fmt: skip


CAPTIONS: dict[str, Callable[[Evidence, Histories], str]] = {
    "figure1": _figure1,
    "figure3": _figure3,
    "table1": _table1,
    "branches": _branches,
    "proxies": _proxies,
    "roofline": _roofline,
    "training": _training,
}
