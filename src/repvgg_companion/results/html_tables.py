"""Rows of the contract, or a Markdown table of ours, in; a table in HTML out that fits the width of a page."""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.contract import INFERENCE_VERDICTS, NOT_TESTED, NUMBER_VERDICTS, with_interval
from repvgg_companion.errors import CompanionError

_VALUES = {"top1_pct": "top-1 in percent", "mean_iou_pct": "mean IoU in percent", "examples_per_s": "images/s"}
_WORDS = {
    "num_classes": "{} classes",
    "n_images": "{} images",
    "input_px": "{} px",
    "batch_size": "batch {}",
    "form": "{} form",
}
VERDICTS = {*NUMBER_VERDICTS, *INFERENCE_VERDICTS}


@dataclass(frozen=True)
class Pivot:
    """A table with one row for each combination of `keys`, and one column for each combination of `by`.

    `values` are the columns of a cell: the value and the ends of its interval.
    """

    keys: tuple[str, ...]
    by: tuple[str, ...]
    values: tuple[str, str, str]


def pivot_table(pivot: Pivot, rows: Sequence[dict[str, Any]]) -> str:
    """Measured rows as a pivot table; keys and parts of column names that are the same everywhere are above it."""
    varied = [name for name in pivot.by if len({row[name] for row in rows}) > 1]
    keys = [name for name in pivot.keys if len({row[name] for row in rows}) > 1 or name == pivot.keys[0]]
    single = [name for name in (*pivot.keys, *pivot.by) if name not in (*keys, *varied)]
    columns = list(dict.fromkeys(tuple(row[name] for name in varied) for row in rows))
    lines: dict[tuple, dict[tuple, list[dict[str, Any]]]] = {}
    for row in rows:
        line = lines.setdefault(tuple(row[name] for name in keys), {})
        line.setdefault(tuple(row[name] for name in varied), []).append(row)
    said = [_VALUES[pivot.values[0]]]
    said += [_WORDS.get(name, "{name} {}").format(_text(rows[0][name]), name=name) for name in single
             if rows[0][name] is not None]  # fmt: skip
    head = [html.escape(name) for name in keys]
    for column in columns:
        words = [f"batch {part}" if name == "batch_size" else str(part) for name, part in zip(varied, column)]
        head.append(html.escape(" ".join(words) or _VALUES[pivot.values[0]]))
    body = [
        [*map(_cell, line), *(_pivot_cell(pivot, cells.get(column, [])) for column in columns)]
        for line, cells in lines.items()
    ]
    return f"<p>All cells: {html.escape(', '.join(said))}.</p>{_table(head, body)}"


def _pivot_cell(pivot: Pivot, rows: list[dict[str, Any]]) -> str:
    """The value with its interval; of several seeds the mean, the lowest and the highest; else one line per row."""
    value, low, high = pivot.values
    numbers = [row[value] for row in rows if row[value] is not None]
    seeds = {row.get("seed") for row in rows}
    if len(numbers) > 1 and len(seeds) == len(rows):
        text = f"{_text(sum(numbers) / len(numbers))} [{_text(min(numbers))}, {_text(max(numbers))}]"
        return f'<td class="n">{html.escape(text)}<small>{len(numbers)} seeds</small></td>'
    parts = []
    for row in rows:
        text = "–" if row[value] is None else _text(row[value])
        if row[low] is not None and row[high] is not None:
            text += f" [{_text(row[low])}, {_text(row[high])}]"
        apart = row.get("memory_format") if len(rows) > 1 else None
        small = "; ".join(filter(None, (apart, row.get("flags"))))
        parts.append(html.escape(text) + (f"<small>{html.escape(small)}</small>" if small else ""))
    return f'<td class="n">{"<br>".join(parts)}</td>'


def rows_table(names: list[str], rows: list[dict[str, Any]]) -> str:
    """The named columns of rows as a table; a column with one value in all rows is above it, an empty one left out."""
    shared = [name for name in names if len(rows) > 1 and len({str(row[name]) for row in rows}) == 1]
    kept = [name for name in names if name not in shared]
    said = [f"{name} {_text(rows[0][name])}" for name in shared if rows[0][name] not in (None, "")]
    above = f"<p>In every row: {html.escape(', '.join(said))}.</p>" if said else ""
    return above + _table(list(map(html.escape, kept)), [[_cell(row[name]) for name in kept] for row in rows])


def is_untested(row: dict[str, Any]) -> bool:
    """Whether a row of claims.csv has neither of its two verdicts."""
    return row["verdict_number"] == row["verdict_inference"] == NOT_TESTED


def claims_table(claims: list[dict[str, Any]]) -> str:
    """The claims, one a row: what the paper says, both values and verdicts, and in small print the reason and flags."""
    body, classes = [], []
    for row in claims:
        ours = with_interval(row["our_value"] or "", row["low"], row["high"])
        setting = ", ".join(row[key] for key in ("device", "precision", "backend") if row[key])
        if row["batch_size"]:
            setting += f", batch {row['batch_size']}"
        small = f"{setting}: {row['reason']}" if setting else row["reason"]
        text = f"{html.escape(row['claim'])}<br><small>{html.escape(small)}</small>"
        if row["flags"]:
            text += f'<br><small class="open">disturbed: {html.escape(row["flags"])}</small>'
        body.append(
            [
                _cell(row["id"]),
                f'<td class="wrap">{text}</td>',
                *(f'<td class="narrow">{html.escape(str(value or ""))}</td>' for value in (row["paper_value"], ours)),
                _cell(row["verdict_number"]),
                _cell(row["verdict_inference"]),
            ]
        )
        classes.append("untested" if is_untested(row) else "")
    return _table(["id", "claim", "paper", "ours", "number", "inference"], body, classes)


def markdown_table(path: Path) -> str:
    """One of our Markdown files (title, pipe table, list of notes); raises CompanionError if it is missing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; make the tables first") from None
    piped = [_split(line) for line in lines if line.startswith("|")]
    title, *others = [line for line in lines if line.strip() and not line.startswith("|")]
    notes = "".join(f"<li>{_with_marks(line.removeprefix('- '))}</li>" for line in others)
    if len(piped) < 2:
        return f"<p>{html.escape(title)}</p>"
    numeric = [mark.endswith(":") for mark in piped[1]]
    body = [
        [f'<td class="{"n" if right else "narrow"}">{_with_marks(cell)}</td>' for cell, right in zip(line, numeric)]
        for line in piped[2:]
    ]
    head = [html.escape(name) for name in piped[0]]
    return f"<p>{html.escape(title)}</p>{_table(head, body)}" + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _with_marks(text: str) -> str:
    """Escaped text in which the raised letters of notes stay raised."""
    return re.sub(r"&lt;(/?sup)&gt;", r"<\1>", html.escape(text))


def _split(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _table(head: list[str], body: list[list[str]], classes: Iterable[str] = ()) -> str:
    titles = "".join(f"<th>{name.replace('_', '_<wbr>')}</th>" for name in head)
    named = [*classes] or [""] * len(body)
    starts = [f'<tr class="{name}">' if name else "<tr>" for name in named]
    lines = "\n".join(start + "".join(cells) + "</tr>" for start, cells in zip(starts, body, strict=True))
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2e}" if value and abs(value) < 1e-3 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    text = html.escape(_text(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="n">{text}</td>'
    kind = text.replace(" ", "-") if value in VERDICTS else "wrap" if len(text) > 40 else ""
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"
