"""Rows of the contract, or a Markdown table of ours, in; a table in HTML out that fits the width of a page."""

import html
import re
from pathlib import Path
from typing import Any

from repvgg_companion.contract import INFERENCE_VERDICTS, NUMBER_VERDICTS
from repvgg_companion.errors import CompanionError

VERDICTS = {*NUMBER_VERDICTS, *INFERENCE_VERDICTS}


def rows_table(names: list[str], rows: list[list[Any]]) -> str:
    """Measured rows as a table.

    Columns with the same value in every row are listed once above it, empty columns are left out, and an interval
    shares a cell with its value, as in `95.61 [92.63, 97.42]`.
    """
    names, rows = _with_intervals(names, [list(row) for row in rows])
    shared, kept = [], []
    for place, name in enumerate(names):
        values = {str(row[place]) for row in rows}
        if len(rows) > 1 and len(values) == 1:
            if rows[0][place] not in (None, ""):
                shared.append(f"{name} {_text(rows[0][place])}")
        else:
            kept.append(place)
    above = f"<p>In every row: {html.escape(', '.join(shared))}.</p>" if shared else ""
    head = [html.escape(names[place]) for place in kept]
    return above + _table(head, [[_cell(row[place]) for place in kept] for row in rows])


def _with_intervals(names: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    for low in [name for name in names if "low" in name.split("_")]:
        words = low.split("_")
        high = "_".join("high" if word == "low" else word for word in words)
        value = "_".join(word for word in words if word != "low")
        if value in names and high in names:
            at, a, b = names.index(value), names.index(low), names.index(high)
            for row in rows:
                if row[at] is not None and row[a] is not None:
                    row[at] = f"{_text(row[at])} [{_text(row[a])}, {_text(row[b])}]"
            keep = [place for place in range(len(names)) if place not in (a, b)]
            names, rows = [names[place] for place in keep], [[row[place] for place in keep] for row in rows]
    return names, rows


def claims_table(claims: list[dict[str, Any]]) -> str:
    """The claims, one a row: what the paper says, both values, both verdicts, and the reason in small print below."""
    body = []
    for row in claims:
        ours = row["our_value"] or ""
        if row["low"] is not None and row["high"] is not None:
            ours = f"{ours} [{row['low']:.4g}, {row['high']:.4g}]"
        setting = ", ".join(row[key] for key in ("device", "precision", "backend") if row[key])
        if row["batch_size"]:
            setting += f", batch {row['batch_size']}"
        small = f"{setting}: {row['reason']}" if setting else row["reason"]
        text = f"{html.escape(row['claim'])}<br><small>{html.escape(small)}</small>"
        body.append(
            [
                _cell(row["id"]),
                f'<td class="wrap">{text}</td>',
                *(f'<td class="narrow">{html.escape(str(value or ""))}</td>' for value in (row["paper_value"], ours)),
                _cell(row["verdict_number"]),
                _cell(row["verdict_inference"]),
            ]
        )
    return _table(["id", "claim", "paper", "ours", "number", "inference"], body)


def markdown_table(path: Path) -> str:
    """One of our Markdown files (title, pipe table, numbered notes); raises CompanionError where it is missing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; make the tables first") from None
    piped = [_split(line) for line in lines if line.startswith("|")]
    title, *others = [line for line in lines if line.strip() and not line.startswith("|")]
    notes = "".join(f"<li>{html.escape(re.sub(r'^[0-9]+[.] ', '', line))}</li>" for line in others)
    if len(piped) < 2:
        return f"<p>{html.escape(title)}</p>"
    numeric = [mark.endswith(":") for mark in piped[1]]
    body = [
        [f'<td class="{"n" if right else "narrow"}">{html.escape(cell)}</td>' for cell, right in zip(line, numeric)]
        for line in piped[2:]
    ]
    head = [html.escape(name) for name in piped[0]]
    return f"<p>{html.escape(title)}</p>{_table(head, body)}" + (f'<ol class="notes">{notes}</ol>' if notes else "")


def _split(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _table(head: list[str], body: list[list[str]]) -> str:
    titles = "".join(f"<th>{name.replace('_', '_<wbr>')}</th>" for name in head)
    lines = "\n".join("<tr>" + "".join(cells) + "</tr>" for cells in body)
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
    if (isinstance(value, int | float) and not isinstance(value, bool)) or re.fullmatch(r"[0-9.,]+ \[.*\]", text):
        return f'<td class="n">{text}</td>'
    kind = text.replace(" ", "-") if value in VERDICTS else "wrap" if len(text) > 40 else ""
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"
