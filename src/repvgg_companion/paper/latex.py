"""Tables, figures with their captions, and single numbers as LaTeX."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from repvgg_companion.paper.table_display import TRACES, DisplayedTable, TableRow, displayed, letter, number

TABLE_PACKAGES, FIGURE_PACKAGES = "booktabs,threeparttable,rotating", "graphicx"
BIBLIOGRAPHY = """@inproceedings{{ding2021repvgg,
  title     = {{{{RepVGG}}: Making {{VGG}}-style {{ConvNets}} Great Again}},
  author    = {{Ding, Xiaohan and Zhang, Xiangyu and Ma, Ningning and Han, Jungong and Ding, Guiguang and Sun, Jian}},
  booktitle = {{Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)}},
  pages     = {{13733--13742}},
  year      = {{2021}},
}}

@misc{{repvgg-companion,
  title        = {{{{RepVGG}} companion: an unofficial, reproducible companion to the paper}},
  author       = {{{{The RepVGG companion authors}}}},
  howpublished = {{Software, MIT licence}},
  year         = {{2026}},
  note         = {{Experiment {experiment}, commit {commit}, data {digest}}},
}}
"""
_PAGE_POINTS, _TURNED_POINTS = 345, 550
"""The width and height of the text of a plain article; a table that is still wider stands on its side."""
_WIDTHS = {"ijlI.,:;'|![]()/ ": 0.35, "mwMW%": 0.95, "ABCDEFGHKLNOPQRSTUVXYZ&+-=<>": 0.8}
"""Widths of characters in units of the size of the text; those of digits and other letters are `_USUAL`."""
_USUAL, _EM = 0.57, 1.14
_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


@dataclass(frozen=True)
class _Layout:
    """How a table is set: the size of its text, the most characters a line of a header, what is stacked or turned."""

    size: str = "footnotesize"
    points: float = 8
    header: int = 13
    stacked: bool = False
    """Whether an interval stands below its value."""
    text_em: int = 13
    """A wider text is wrapped in a column of this width."""
    turned: bool = False

    @property
    def gap(self) -> float:
        """Half the space between two columns, in points."""
        return 1.5 if self.stacked else 2.5


_SMALL = _Layout("scriptsize", 7)
_STACKED = replace(_SMALL, header=9, stacked=True, text_em=9)
_LAYOUTS = (_Layout(), _SMALL, replace(_SMALL, header=9), _STACKED)
"""The first that fits the width of a page is taken."""


def as_latex(rows: list[TableRow], caption: str, name: str) -> str:
    """A booktabs table with lettered notes below; LaTeX numbers it, so the caption has no number.

    It fits the text of a plain article, in footnote or script size, or is turned on its side.
    """
    table = displayed(rows)
    turned = (replace(_SMALL, turned=True), replace(_STACKED, turned=True))
    layout = next((one for one in _LAYOUTS if _width(table, one) <= _PAGE_POINTS), None)
    layout = layout or next((one for one in turned if _width(table, one) <= _TURNED_POINTS), turned[-1])
    lines = []
    for cells, marks in zip(table.cells, table.marks, strict=True):
        marked = [_stacked(cell, layout) + _tnote(marks.get(place, [])) for place, cell in enumerate(cells)]
        lines.append("  " + " & ".join(marked) + " \\\\")
    columns = zip(table.numeric, zip(*table.cells, strict=True), strict=True)
    kinds = "".join("r" if right else _text_column(cells, layout) for right, cells in columns)
    heads = [_head(words, right, layout) for words, right in zip(table.headers, table.numeric, strict=True)]
    notes = [f"  \\item {escaped(words)}." for words in table.general]
    notes += [f"  \\item[{letter(place)}] {escaped(words)}." for place, words in enumerate(table.notes, start=1)]
    environment = "sidewaystable*" if layout.turned else "table*"
    return "\n".join(
        [
            f"% needs \\usepackage{{{TABLE_PACKAGES}}}",
            f"\\begin{{{environment}}}",
            f"\\centering\\{layout.size}\\setlength{{\\tabcolsep}}{{{layout.gap}pt}}",
            "\\begin{threeparttable}",
            f"\\caption{{{escaped(caption)}}}",
            f"\\label{{tab:{name}}}",
            f"\\begin{{tabular}}{{{kinds}}}",
            "  \\toprule",
            "  " + " & ".join(heads) + " \\\\",
            "  \\midrule",
            *lines,
            "  \\bottomrule",
            "\\end{tabular}",
            *([f"\\begin{{tablenotes}}[flushleft]\\{layout.size}", *notes, "\\end{tablenotes}"] if notes else []),
            "\\end{threeparttable}",
            f"\\end{{{environment}}}",
            "",
        ]
    ).replace("..\n", ".\n")


def _points(text: str, size: float) -> float:
    """About how wide a text is in points at a size in points."""
    return size * sum(next((width for some, width in _WIDTHS.items() if part in some), _USUAL) for part in text)


def _width(table: DisplayedTable, layout: _Layout) -> float:
    """About how wide a table is in points, with the space between and beside its columns."""
    widths = []
    for head, cells, right in zip(table.headers, zip(*table.cells, strict=True), table.numeric, strict=True):
        parts = [part for cell in cells for part in (cell.split(" [", 1) if layout.stacked else [cell])]
        widest = max(_points(part + "[" * layout.stacked, layout.points) for part in parts)
        widest = widest if right else min(widest, _text_points(cells, layout))
        widths.append(max(widest, *(_points(line, layout.points) for line in _head_lines(head, layout))))
    marks = {place for line in table.marks for place in line}
    return sum(widths) + 2 * layout.gap * len(widths) + 0.55 * layout.points * len(marks)


def _text_points(cells: Sequence[str], layout: _Layout) -> float:
    """The width of a column of text that may be wrapped: that of its longest word at least."""
    longest = max((word for cell in cells for word in cell.split()), key=lambda word: _points(word, 1), default="")
    return max(layout.text_em * _EM * layout.points, _points(longest, layout.points))


def _text_column(cells: Sequence[str], layout: _Layout) -> str:
    """The kind of a column of text: wrapped where it is too wide."""
    limit = _text_points(cells, layout)
    return (
        f"p{{{limit / _EM / layout.points:.0f}em}}"
        if max(_points(cell, layout.points) for cell in cells) > limit
        else "l"
    )


def _stacked(cell: str, layout: _Layout) -> str:
    """A cell; in a layout that says so the interval stands below its value."""
    value, bracket, interval = cell.partition(" [")
    if not bracket or not layout.stacked:
        return escaped(cell)
    return f"\\begin{{tabular}}[t]{{@{{}}r@{{}}}}{escaped(value)}\\\\{{}}[{escaped(interval)}\\end{{tabular}}"


def _head_lines(words: str, layout: _Layout) -> list[str]:
    """A header on as many lines as it needs."""
    if layout.header < len("(examples/s)"):
        words = words.replace("examples/s", "examples /s")
    return textwrap.wrap(words, layout.header, break_long_words=False)


def _head(words: str, right: bool, layout: _Layout) -> str:
    lines = _head_lines(words, layout)
    text = "\\\\".join(escaped(line) for line in lines)
    return f"\\shortstack[{'r' if right else 'l'}]{{{text}}}" if len(lines) > 1 else text


def _tnote(marks: list[int]) -> str:
    return f"\\tnote{{{','.join(letter(place) for place in sorted(set(marks)))}}}" if marks else ""


def as_figure(file: str, caption: str, label: str, printed: bool) -> str:
    """A figure environment of one column with its caption, which cites the paper if it has `printed` values."""
    cited = " Printed values: \\cite{ding2021repvgg}." if printed else ""
    return "\n".join(
        [
            f"% needs \\usepackage{{{FIGURE_PACKAGES}}}, \\graphicspath{{{{FOLDER/}}}} and references.bib",
            "\\begin{figure}",
            "\\centering",
            f"\\includegraphics[width=\\linewidth,height=0.8\\textheight,keepaspectratio]{{{file}}}",
            f"\\caption{{{escaped(caption)}{cited}}}",
            f"\\label{{fig:{label}}}",
            "\\end{figure}",
            "",
        ]
    )


def as_macros(tables: dict[str, list[TableRow]], experiment: str) -> str:
    """Each number of our columns as a macro, such as repvggDemoTopOneAZero; texts that all rows share, too.

    `tables` are the rows of the tables by name. The value of a name that two tables share with different values is
    that of the first; the other's name ends in its table.
    """
    found: dict[str, str] = {}
    lines = [f"% numbers of the experiment {experiment}, as its tables write them; \\input this file, then \\NAME{{}}"]
    for table, rows in tables.items():
        for name, value, source in _values(rows, experiment):
            if found.get(name) == value:
                continue
            own = name + words_of(table) if name in found else name
            found[own] = value
            lines.append(f"\\newcommand{{\\{own}}}{{{escaped(value)}}}% {table}.csv {source}")
    return "\n".join(lines) + "\n"


def _values(rows: list[TableRow], experiment: str) -> Iterator[tuple[str, str, str]]:
    """Name, text and source of each of our values."""
    start = f"repvgg{words_of(experiment)}"
    for column in rows[0]:
        if column == "note" or column.startswith("paper_") or column.endswith(TRACES):
            continue
        values = {row[column] for row in rows} - {None}
        stem = re.sub("^(ours|demo|recount)_", "", column)
        if column.endswith(("_setting", "_recipe", "_network")) and len(values) == 1:
            yield f"{start}{words_of(stem)}", str(values.pop()), column
        for row in rows:
            key = next((f"{name} {row[name]}" for name in ("kernel_size", "stage") if name in row), row.get("model"))
            if isinstance(row[column], int | float) and column not in ("kernel_size", "stage"):
                name = f"{start}{words_of(_named(stem))}{words_of(str(key).removeprefix('RepVGG-'))}"
                yield name, number(column, row[column]), f"{key} {column}"


def _named(stem: str) -> str:
    """`top1_low` for `top1_low_pct`: the unit stands in the text, not in the name."""
    return re.sub("_(pct|points|examples_per_s|ms|tflops|[mb])$", "", stem)


def words_of(text: str) -> str:
    """A text as letters for the name of a macro: `B1g2` as `BOneGTwo`."""
    parts = re.findall(r"[A-Za-z]+|\d", text)
    return "".join(_DIGITS[int(part)] if part.isdigit() else part[0].upper() + part[1:] for part in parts)


def escaped(text: str) -> str:
    """A text whose characters LaTeX prints as they are."""
    return "".join(_ESCAPES.get(character, character) for character in text)


_ESCAPES = {character: f"\\{character}" for character in "&%_#${}"} | {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "|": "\\textbar{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "–": "--",
}
