"""Tables, figures with their captions, and single numbers as LaTeX."""

import re
import textwrap
from collections.abc import Iterator

from repvgg_companion.paper.table_display import TRACES, DisplayedTable, TableRow, displayed, letter, number

TABLE_PACKAGES, FIGURE_PACKAGES = "booktabs,threeparttable", "graphicx"
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
_HEADER_CHARACTERS = 13
_FOOTNOTE_CHARACTERS, _SCRIPT_CHARACTERS = 112, 138
"""This many characters fit a page of 7 inches in 8 points (footnote size) and in 7 points (script size)."""
_WRAPPED_CHARACTERS, _WRAPPED_EM = 30, 13
"""A text longer than this many characters is wrapped, in a column of this width."""
_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def as_latex(rows: list[TableRow], caption: str, name: str) -> str:
    """A booktabs table in footnote size with lettered notes below; LaTeX numbers it, so the caption has no number."""
    table = displayed(rows)
    width = _characters(table)
    lines = []
    for cells, marks in zip(table.cells, table.marks, strict=True):
        marked = [_stacked(cell, width) + _tnote(marks.get(place, [])) for place, cell in enumerate(cells)]
        lines.append("  " + " & ".join(marked) + " \\\\")
    longest = [max(map(len, column)) for column in zip(*table.cells, strict=True)]
    layout = "".join(
        "r" if right else f"p{{{_WRAPPED_EM}em}}" if length > _WRAPPED_CHARACTERS else "l"
        for right, length in zip(table.numeric, longest, strict=True)
    )
    size = "footnotesize" if width <= _FOOTNOTE_CHARACTERS else "scriptsize"
    heads = [_head(words, right) for words, right in zip(table.headers, table.numeric, strict=True)]
    notes = [f"  \\item {escaped(words)}." for words in table.general]
    notes += [f"  \\item[{letter(place)}] {escaped(words)}." for place, words in enumerate(table.notes, start=1)]
    return "\n".join(
        [
            f"% needs \\usepackage{{{TABLE_PACKAGES}}}",
            "\\begin{table*}",
            f"\\centering\\{size}\\setlength{{\\tabcolsep}}{{2.5pt}}",
            "\\begin{threeparttable}",
            f"\\caption{{{escaped(caption)}}}",
            f"\\label{{tab:{name}}}",
            f"\\begin{{tabular}}{{{layout}}}",
            "  \\toprule",
            "  " + " & ".join(heads) + " \\\\",
            "  \\midrule",
            *lines,
            "  \\bottomrule",
            "\\end{tabular}",
            *(["\\begin{tablenotes}", *notes, "\\end{tablenotes}"] if notes else []),
            "\\end{threeparttable}",
            "\\end{table*}",
            "",
        ]
    ).replace("..\n", ".\n")


def _characters(table: DisplayedTable) -> float:
    """About how many characters a line of the table takes; a long text is wrapped."""
    columns = zip(table.headers, zip(*table.cells, strict=True), strict=True)
    texts = [[*textwrap.wrap(head, _HEADER_CHARACTERS), *cells] for head, cells in columns]
    return sum(min(_WRAPPED_CHARACTERS, max(map(len, column))) + 1.3 for column in texts)


def _stacked(cell: str, width: float) -> str:
    """A cell; in a table too wide for its page the interval stands below its value."""
    value, bracket, interval = cell.partition(" [")
    if not bracket or width <= _SCRIPT_CHARACTERS:
        return escaped(cell)
    return f"\\begin{{tabular}}[t]{{@{{}}r@{{}}}}{escaped(value)}\\\\{{}}[{escaped(interval)}\\end{{tabular}}"


def _head(words: str, right: bool) -> str:
    """A header on as many lines as it needs."""
    lines = textwrap.wrap(words, _HEADER_CHARACTERS, break_long_words=False)
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
