"""What the figures share: colours and markers, and files with provenance inside.

Colours are those of Okabe and Ito, which people with colour vision deficiencies tell apart; each series has a marker of
its own as well, the paper's where it has one.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.3
FORMATS = ("pdf", "svg", "png")
PAPER_DEVICE = "GTX 1080 Ti, fp32, batch 128"
GREY, BLUE = "#8a8a8a", "#0072B2"
OTHER_IMAGES_TINT = "#fff6e5"
"""Behind panels whose accuracies belong to other images than the paper's."""
STAR = "*"
"""Behind the name of a network, or beside the point, whose speed was disturbed beyond its limits."""
STAR_WORDS = f"{STAR} disturbed speed"


@dataclass(frozen=True)
class Series:
    """How one family of networks is drawn; `line` joins its points, as the paper does for four families."""

    colour: str
    marker: str
    line: bool = False


SERIES = {
    "RepVGG": Series("#D55E00", "o", True),
    "RegNetX": Series("#0072B2", "P"),
    "ResNet": Series("#009E73", "<", True),
    "ResNeXt": Series("#56B4E9", ">", True),
    "EfficientNet": Series("#000000", "^"),
    "VGG": Series("#CC79A7", "s"),
    "PSPNet": Series("#F0E442", "D"),
}
PAPER_COLOUR, OURS_COLOUR, TRAIN_COLOUR = "#6f6f6f", "#D55E00", "#A6CEE3"
"""Printed values are grey and ours are coloured, wherever both stand in one panel; bars of the train form are paler."""


@contextmanager
def style() -> Iterator[None]:
    """Use matplotlib without a display and with the companion's style file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.style.context(Path(__file__).with_name("companion.mplstyle")):
        yield
        plt.close("all")


def family(model: str) -> str:
    """`ResNet` for ResNet-50: the part of a name before its first hyphen."""
    return model.partition("-")[0]


def short(model: str) -> str:
    """`A2` for RepVGG-A2, `50` for ResNet-50: the colour already tells the family."""
    return model.split("-", 1)[1].removesuffix("GF")


def freeze_layout(figure: "Figure") -> None:
    """Freeze the layout of the panels, so that labels can be placed in pixels; a second call changes nothing."""
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    if isinstance(figure.get_layout_engine(), PlaceHolderLayoutEngine):
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:  # the solver's last digits differ from run to run, and with them the labels' places
        axes.set_position(tuple(round(value, 6) for value in axes.get_position().bounds))


def wrapped(label: str, width: int = 30) -> str:
    """A long label on several lines, broken at spaces and hyphens."""
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=True, break_long_words=False))


def family_legend(
    figure: "Figure", families: list[str], *, open_markers: str = "", joined: bool = False, starred: bool = False
) -> None:
    """One legend for all panels, above them.

    `open_markers` says what an open marker means; `joined`: lines join the points of some families; `starred`: the
    names of networks whose speed was disturbed have a star.
    """
    from matplotlib.lines import Line2D

    handles = []
    for name, series in SERIES.items():
        if name in families:
            handle = Line2D([], [], color=series.colour, marker=series.marker, label=name)
            handle.set_linestyle("-" if joined and series.line else "")
            handles.append(handle)
    if open_markers:
        handles.append(Line2D([], [], color=GREY, marker="o", markerfacecolor="white", ls="", label=open_markers))
    if starred:
        handles.append(Line2D([], [], ls="", label=STAR_WORDS))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)))


def named_bands(axes: "Axes", names: list[str]) -> None:
    """A band for each name from top to bottom, with lines between them."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color="#d0d0d0", linewidth=0.5)


def empty_panel(axes: "Axes", why: str) -> None:
    """A panel without data says why."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, textwrap.fill(why, 58), ha="center", va="center", transform=axes.transAxes, color=GREY)


def mark_experiment(figure: "Figure", experiment: str, datasets: list[str]) -> None:
    """Say below a figure that its experiment used other images than the paper's; the figure itself needs no images.

    The figure grows at its bottom by the lines of these words, so that they lie below everything else.
    """
    kind = "DEMO" if all(name.startswith("demo") for name in datasets) else "OTHER IMAGES"
    words = f"{kind}: experiment {experiment}, {', '.join(datasets)}, not ImageNet"
    freeze_layout(figure)
    texts, size, characters = list(figure.texts), 7, 56
    note = figure.text(0.5, 0, textwrap.fill(words, characters), fontsize=size, ha="center", va="bottom")
    while note.get_window_extent().width > 0.97 * figure.bbox.width:
        characters -= 2
        note.set_text(textwrap.fill(words, characters))
    before = figure.get_figheight()
    grown = (note.get_text().count("\n") + 1) * 1.3 * size / 72
    after = before + grown
    figure.set_figheight(after)
    note.set_y(0.04 / after)
    for axes in figure.axes:
        x, y, width, height = axes.get_position().bounds
        places = (x, (y * before + grown) / after, width, height * before / after)
        axes.set_position(tuple(round(value, 6) for value in places))
    for text in texts:
        text.set_y((text.get_position()[1] * before + grown) / after)


def save(figure: "Figure", stem: Path, title: str, commit: str, data_digest: str) -> None:
    """Write `stem`.pdf, .svg and .png by rename, with title, commit and data digest inside and no dates.

    The same data and commit give the same bytes.
    """
    words = f"commit {commit}; data {data_digest}"
    undated = {"CreationDate": None, "ModDate": None}
    metadata = {
        "pdf": {"Title": title, "Subject": words, "Keywords": words, "Creator": "repvgg-companion", **undated},
        "svg": {"Title": title, "Description": words, "Creator": "repvgg-companion", "Date": None},
        "png": {"Title": title, "Description": words, "Software": "repvgg-companion"},
    }
    freeze_layout(figure)
    for kind in FORMATS:
        with atomic_path(stem.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata[kind])


def plain_ticks(axis: "Axis") -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, ..., written as numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
