"""The `compare` verb: the results of two experiments or devices side by side.

A difference or ratio is given only where it means something: accuracies of the same images, network and protocol;
speeds of one run. Everything else is shown side by side, with the reason why it is not compared.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from repvgg_companion.contract import with_interval, write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.accuracy_lines import accuracy_lines
from repvgg_companion.evidence.compared_line import COMPARED_TABLES, ComparedLine, Measured, Side, read_side
from repvgg_companion.evidence.speed_lines import memory_lines, ratio_lines, speed_lines
from repvgg_companion.files import write_text
from repvgg_companion.paper.claims import rows_of_claim
from repvgg_companion.paper.comparable_runs import BEST
from repvgg_companion.paper.grammar import parse
from repvgg_companion.paper.ours import Row
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import NOT_TESTED

_COUNTS = ("params", "flops", "wino_muls")
_HEADINGS = {
    "accuracy": ("Top-1 accuracy", "Change: B less A in points, with its 95 % interval."),
    "segmentation": ("Segmentation", "Change: B less A in points, with its 95 % interval."),
    "ratio": ("Speed ratios", "Each ratio is formed within one run, with its 95 % interval."),
    "speed": ("Speed", "Values with 95 % intervals; a ratio of A and B would cross two runs."),
    "kernel_size": ("Density by kernel size", "Values with 95 % intervals; a ratio of A and B would cross two runs."),
    "memory": ("Memory", "Only memory that differs. Change: B less A in MiB, counted, so without an interval."),
    "complexity": ("Counts", "Only counts that differ."),
    "claims": ("Claims", "Only claims that both sides have a value for and whose verdicts differ: number / inference."),
}

_NOTHING_IN_COMMON = {
    "accuracy": "Top-1 accuracy: no network is on both sides.",
    "segmentation": "Segmentation: no network is on both sides.",
    "speed": "Speed: no network was measured on both sides in the same precision, engine, memory format and batch.",
    "kernel_size": "Density by kernel size: no kernel was measured on both sides in the same shape and setting.",
    "memory": "Memory: no network has different values on the two sides at the same batch and input.",
    "claims": "Claims: no verdict differs where both sides have a value.",
}
"""The sentence for a table that both sides have, but of which no line is shown."""


@dataclass(frozen=True)
class CompareRequest:
    """What to compare and where to write it; `output` None prints Markdown."""

    first: Path
    second: Path
    paper: Path
    output: Path | None

    def __post_init__(self) -> None:
        """Raise CompanionError for one folder given twice, or an output of an unknown kind."""
        if self.first.resolve() == self.second.resolve():
            raise CompanionError(f"{self.first} and {self.second} are one folder; name two different ones")
        if self.output is not None and self.output.suffix not in (".md", ".csv"):
            raise CompanionError(f"--output {self.output} must end in .md or .csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `compare` verb."""
    parser.add_argument("a", metavar="A", help="a folder such as results/demo or results/devices/DEVICE")
    parser.add_argument("b", metavar="B", help="the folder to compare it with")
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--output", help="write Markdown (.md) or rows (.csv) instead of printing Markdown")


def run(arguments: argparse.Namespace) -> None:
    """Print the comparison, or write it."""
    request = CompareRequest(
        Path(arguments.a),
        Path(arguments.b),
        Path(arguments.paper),
        Path(arguments.output) if arguments.output else None,
    )
    first, second = read_side(request.first), read_side(request.second)
    lines = compared(first, second, Facts(request.paper))
    if request.output is None:
        print(markdown(lines, first, second), end="")
    elif request.output.suffix == ".md":
        write_text(request.output, markdown(lines, first, second))
    else:
        for sentence in unfinished(first, second):
            print(f"compare: {sentence}", file=sys.stderr)
        write_rows(request.output, "comparison", [line.row() for line in lines], keep_order=True)


def compared(first: Side, second: Side, facts: Facts) -> list[ComparedLine]:
    """All lines of a comparison; raises CompanionError if the sides have nothing in common."""
    common = first.tables & second.tables
    if not common:
        held = [", ".join(sorted(side.tables)) or "no rows" for side in (first, second)]
        raise CompanionError(
            f"{first.folder} ({held[0]}) and {second.folder} ({held[1]}) hold no table in common; there is nothing to "
            "compare"
        )
    lines = [*accuracy_lines(first, second), *ratio_lines(first, second, facts), *speed_lines(first, second)]
    lines += [*memory_lines(first, second), *_count_lines(first, second), *_claim_lines(first, second, facts)]
    if not lines and common <= {"accuracy", "segmentation", "speed", "kernel_size"}:
        raise CompanionError(
            f"{first.folder} and {second.folder} hold no network, kernel or claim in the same setting; there is "
            "nothing to compare"
        )
    return lines


def _counts(side: Side) -> dict[tuple, Row]:
    """The counts of a side by model, form, width, number of classes and input."""
    key = ("model", "form", "width", "num_classes", "input_px")
    return {tuple(row[name] for name in key): row for row in side.results.rows("complexity")}


def _equal_counts(first: Side, second: Side) -> str:
    """Which networks' counts are equal on both sides, and how many counts only one side has."""
    mine, others = _counts(first), _counts(second)
    common = mine.keys() & others.keys()
    if not common:
        return "Counts: no network was counted on both sides at the same width, number of classes and input."
    settings = sorted({(width, classes) for _, _, width, classes, _ in common})
    told = "; ".join(f"width {width:g}, {classes} classes" for width, classes in settings)
    alone = "".join(
        f" Only {name} has counts at {', '.join(f'width {width:g}, {classes} classes' for width, classes in only)}."
        for name, keys in (("A", mine.keys() - common), ("B", others.keys() - common))
        if (only := sorted({(width, classes) for _, _, width, classes, _ in keys} - set(settings)))
    )
    return f"Counts: those of the same networks agree ({told}).{alone}"


def _count_lines(first: Side, second: Side) -> Iterator[ComparedLine]:
    mine, others = _counts(first), _counts(second)
    for found in (found for found in mine if found in others):
        for name in _COUNTS:
            one, two = mine[found][name], others[found][name]
            if one != two:
                model, form, width, classes, px = found
                setting = f"width {width:g}, {classes} classes, {px} px"
                yield ComparedLine(
                    "complexity", f"{model} {form}", setting, name, Measured(one), Measured(two),
                    note="the same network has one count; one side was counted by other code",
                )  # fmt: skip


def _claim_lines(first: Side, second: Side, facts: Facts) -> Iterator[ComparedLine]:
    """Claims that both sides judged in the same precision and backend, where a verdict differs."""

    def key(row: Row) -> tuple:
        return (row["id"], row["precision"], row["backend"])

    parts = [{key(row): row for row in reversed(_claims(side, facts)) if _is_told(row)} for side in (first, second)]
    for claim in facts.table("claims"):
        for found in (found for found in parts[0] if found[0] == claim["id"] and found in parts[1]):
            one, other = parts[0][found], parts[1][found]
            texts = [f"{row['verdict_number']} / {row['verdict_inference']}" for row in (one, other)]
            if texts[0] != texts[1]:
                setting = ", ".join(part for part in (one["precision"], one["backend"]) if part)
                note = "; ".join(_value_of(name, row) for name, row in (("A", one), ("B", other)))
                yield ComparedLine(
                    "claims",
                    f"{claim['id']} {claim['claim']}",
                    setting,
                    "verdicts",
                    texts=(texts[0], texts[1]),
                    note=note,
                )


def _is_told(row: Row) -> bool:
    """Whether a row of a claim has a verdict or a value of its own; the best backend repeats another row."""
    return row["backend"] != BEST and not (row["verdict_number"] == NOT_TESTED and row["our_value"] is None)


def _value_of(side: str, row: Row) -> str:
    """`A: batch 8, 1.43 [1.41, 1.45]`: what a verdict of one side rests on, or why there is none."""
    if row["our_value"] is None:
        return f"{side}: no value"
    batch = f"batch {row['batch_size']}, " if row["batch_size"] else ""
    return f"{side}: {batch}{with_interval(row['our_value'], row['low'], row['high'])}"


def _claims(side: Side, facts: Facts) -> list[Row]:
    """The judged claims of a side; where the folder holds none, those about speed are judged now."""
    found = side.results.rows("claims")
    if not found and side.tables & {"speed", "kernel_size"}:
        for claim in facts.table("claims"):
            if any(part.is_speed for term in parse(claim["condition"]) for part in term.quantities):
                found = [*found, *rows_of_claim(claim, facts, side.results)]
    return found


def markdown(lines: list[ComparedLine], first: Side, second: Side) -> str:
    """The comparison as a page: one table a section."""
    parts = [
        f"# {first.name} beside {second.name}",
        "",
        f"A is `{first.folder}`, B is `{second.folder}`.",
        "",
        *(f"{sentence}\n" for sentence in unfinished(first, second)),
    ]
    for section, (heading, explanation) in _HEADINGS.items():
        mine = [line for line in lines if line.section == section]
        if not mine:
            continue
        parts += [f"## {heading}", "", explanation, "", *_table([line for line in mine if not _is_refused(line)])]
        parts += [f"{line.subject}: {line.note}.\n" for line in mine if _is_refused(line)]
    compared_tables = {line.section for line in lines}
    nothing = [table for table in COMPARED_TABLES if table in first.tables & second.tables - compared_tables]
    told = [_NOTHING_IN_COMMON[table] for table in nothing if table in _NOTHING_IN_COMMON]
    told += [_equal_counts(first, second)] if "complexity" in nothing else []
    parts += [f"{sentence}\n" for sentence in told]
    one_sided = sorted(set(COMPARED_TABLES) & (first.tables ^ second.tables))
    if one_sided:
        words = [f"{table} (only {'A' if table in first.tables else 'B'})" for table in one_sided]
        parts += [f"Measured on one side: {', '.join(words)}.", ""]
    return "\n".join(parts)


def unfinished(first: Side, second: Side) -> list[str]:
    """One sentence for each side whose run is not finished: what is missing and therefore not compared."""
    return [
        f"The run of {name} is not finished: {side.folder} lacks {'; '.join(side.missing)}. What is there is compared."
        for name, side in (("A", first), ("B", second))
        if side.missing
    ]


def _is_refused(line: ComparedLine) -> bool:
    """Whether a line only says why its subjects are not compared."""
    return line.first.value is None and not any(line.texts)


def _table(lines: list[ComparedLine]) -> list[str]:
    """The lines as a table; what the notes of three or more lines begin with in common stands below it once."""
    cells = [_cells(line) for line in lines]
    notes = [line[-1].split("; ") for line in cells]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*notes, strict=False))
    shared = [parts[0] for parts in alike] if len(notes) > 2 else []
    rows = [[*line[:-1], "; ".join(note[len(shared) :])] for line, note in zip(cells, notes, strict=True)]
    if not rows:
        return []
    below = [f"Every line: {'; '.join(shared)}.", ""] if any(shared) else []
    return [
        "| what | setting | A | B | change | note |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows),
        "",
        *below,
    ]


def _cells(line: ComparedLine) -> list[str]:
    if line.section == "claims":
        first, second = line.texts
        return [line.subject, line.setting, first, second, "", line.note]
    note = "; ".join(part for part in (line.method, line.note) if part)
    change = _shown(line.change, "+.2f") if line.change.value is not None else ""
    kind = ".2f" if line.section in ("accuracy", "segmentation") else "," if line.section == "complexity" else ".4g"
    return [line.subject, line.setting, _shown(line.first, kind), _shown(line.second, kind), change, note]


def _shown(measured: Measured, kind: str) -> str:
    if measured.value is None:
        return "–"
    text = format(measured.value, kind)
    if measured.low is not None and measured.high is not None:
        text += f" [{format(measured.low, kind)}, {format(measured.high, kind)}]"
    return text
