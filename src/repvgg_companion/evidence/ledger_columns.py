"""The columns of `ledger.csv` with their meaning, and the writer of the file and of its data dictionary."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.contract import INFERENCE_VERDICTS, NUMBER_VERDICTS
from repvgg_companion.evidence.evidence_classes import CLASSES
from repvgg_companion.evidence.study_pairs import STUDY_VERDICTS
from repvgg_companion.files import csv_text, write_text


@dataclass(frozen=True)
class LedgerColumn:
    """One column: its name, its type, whether a cell may be empty, and what it means."""

    name: str
    type: str
    empty: str
    meaning: str


COLUMNS = (
    LedgerColumn("id", "text", "never", "the claim of paper/claims.csv"),
    LedgerColumn("evidence_class", "text", "never", "one of: " + ", ".join(one.name for one in CLASSES)),
    LedgerColumn("source", "text", "never", "who measured, evaluated, trained, counted or printed the numbers"),
    LedgerColumn("setting", "text", "if there is none", "precision, engine, memory format, versions, model form"),
    LedgerColumn("device", "text", "if no speed is involved", "the device that was timed"),
    LedgerColumn("part", "text", "never", "the terms of the claim that the verdicts are about: 'whole claim', the "
                 "terms themselves, or 'no part' where the value is shown but decides nothing"),
    LedgerColumn("value", "text", "if a check gives none", "the value of each term: a ratio, a difference in points "
                 "of top-1, a top-1 in percent, or both sides of a comparison (for speeds also "
                 "the ratio, paired round by round); with several terms each has its interval"),
    LedgerColumn("low", "number", "if there is no interval", "lower end of the 95 % interval of the first term that "
                 "has one, in the unit of its value (a ratio for an order of two speeds)"),
    LedgerColumn("high", "number", "if there is no interval", "upper end of that interval"),
    LedgerColumn("verdict_number", "text", "never", "is the printed value met? one of: " + ", ".join(NUMBER_VERDICTS)),
    LedgerColumn("verdict_inference", "text", "never", "is the effect there in the claim's direction, "
                 "beyond the noise, whatever its size? one of: "
                 + ", ".join((*INFERENCE_VERDICTS, *STUDY_VERDICTS))),
    LedgerColumn("reason", "text", "if the verdicts need none", "why a verdict is open or not given, and what the "
                 "interval is over"),
    LedgerColumn("differs", "text", "if nothing does", "what differs from the paper's protocol"),
    LedgerColumn("evidence", "text", "if a check names none", "the rows and files that the value rests on"),
)  # fmt: skip

HEADER = ("column", "type", "empty", "meaning")
"""The columns of the data dictionary."""


def write_ledger(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `ledger.csv`; numbers are given to six digits, so that they are the same on every machine."""
    names = [column.name for column in COLUMNS]
    write_text(path, csv_text([names, *([_text(row[name]) for name in names] for row in rows)]))


def write_dictionary(path: Path) -> None:
    """Write the data dictionary of `ledger.csv`."""
    write_text(path, csv_text([HEADER, *map(astuple, COLUMNS)]))


def _text(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
