"""Two folders of results, and one line of a comparison between them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.contract import TABLES
from repvgg_companion.errors import CompanionError
from repvgg_companion.paper.ours import Results

COMPARED_TABLES = ("accuracy", "segmentation", "speed", "kernel_size", "complexity", "claims")


@dataclass(frozen=True)
class Measured:
    """A value with its 95 % interval, if it has one."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ComparedLine:
    """One quantity of both sides; `change` is second less first, or second over first, as `method` says.

    A line without `change` is not compared, and its `note` says why. `texts` are the verdicts of a claim.
    """

    section: str
    subject: str
    setting: str
    quantity: str
    first: Measured = Measured()
    second: Measured = Measured()
    change: Measured = Measured()
    method: str = ""
    texts: tuple[str, str] = ("", "")
    note: str = ""

    def row(self) -> dict[str, Any]:
        """The line as a row of the contract's table `comparison`."""
        numbers: dict[str, Any] = {}
        for name, measured in (("a", self.first), ("b", self.second), ("change", self.change)):
            numbers |= {name: measured.value, f"{name}_low": measured.low, f"{name}_high": measured.high}
        return {
            "section": self.section,
            "subject": self.subject,
            "setting": self.setting,
            "quantity": self.quantity,
            **numbers,
            "method": self.method,
            "a_verdict": self.texts[0],
            "b_verdict": self.texts[1],
            "note": self.note,
        }


@dataclass(frozen=True)
class Side:
    """One of the two folders."""

    folder: Path
    results: Results

    @property
    def name(self) -> str:
        """The folder's name: an experiment or a device."""
        return self.folder.resolve().name

    @property
    def tables(self) -> set[str]:
        """The tables that the folder holds rows of."""
        return {table for table in COMPARED_TABLES if self.results.rows(table)}


def read_side(folder: Path) -> Side:
    """One folder of results; raises CompanionError where it is none."""
    if not folder.is_dir():
        raise CompanionError(f"{folder} is not a folder; name results/EXPERIMENT or results/devices/DEVICE")
    if not any((folder / f"{table}.csv").exists() for table in TABLES):
        inner = sorted({path.parent.name for table in TABLES for path in folder.glob(f"*/{table}.csv")})
        hint = f"; name one of its folders: {', '.join(inner)}" if inner else ""
        raise CompanionError(f"{folder} holds no result tables such as speed.csv{hint}")
    return Side(folder, Results(folder))
