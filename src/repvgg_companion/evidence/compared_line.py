"""Two folders of results, and one line of a comparison between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.contract import TABLES
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json
from repvgg_companion.paper.ours import Results, Row

COMPARED_TABLES = ("accuracy", "segmentation", "speed", "kernel_size", "memory", "complexity", "claims")
CONFIGURATION, PARTS = "experiment.json", "parts"
"""What the run of an experiment writes into its folder first: what was asked for, and the rows of single jobs."""
SHOWN_ROWS = 3
"""Up to this many missing rows of a table are named."""


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

    @property
    def missing(self) -> list[str]:
        """What the run of an experiment still lacks, in words; empty for a finished one, a device or a study."""
        if not (self.folder / PARTS).is_dir() or not (self.folder / CONFIGURATION).exists():
            return []
        asked = asked_for(read_json(self.folder / CONFIGURATION))
        absent = [f"{table}.csv" for table in asked if not (self.folder / f"{table}.csv").exists()]
        for table, networks in asked.items():
            if networks and f"{table}.csv" not in absent:
                found = [_words(row) for row in self.results.rows(table)]
                lost = [_name(network) for network in networks if not any({*network} <= row for row in found)]
                more = f" and {len(lost) - SHOWN_ROWS} more" if len(lost) > SHOWN_ROWS else ""
                absent += [f"in {table}.csv {', '.join(lost[:SHOWN_ROWS])}{more}"] if lost else []
        return absent


def asked_for(configuration: Mapping[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """The tables that an experiment asks for, and words that a row of each network in them has."""
    trained: list[tuple[str, ...]] = [
        (model, f"recipe {group['recipe']}", f"width {group['width']:g}", f"seed {seed}")
        for group in configuration["training"]
        for model in group["models"]
        for seed in group["seeds"]
    ]
    timed = [plan for key in ("speed", "segmentation_speed") if (plan := configuration[key])]
    asked: dict[str, list[tuple[str, ...]]] = {}
    if trained or configuration["released"]:
        asked["segmentation" if configuration["data"]["cityscapes_folder"] else "accuracy"] = trained
    if timed:
        asked["speed"] = [(model,) for plan in timed for model in (*plan["models"], *plan["baselines"])]
    if configuration["kernel_size"]:
        asked["kernel_size"] = []
    if configuration["memory"]:
        asked["memory"] = [(model,) for model in configuration["memory"]["models"]]
    return asked | {"complexity": [], "claims": []}


def _name(network: tuple[str, ...]) -> str:
    return network[0] + (f" ({', '.join(network[1:])})" if network[1:] else "")


def _words(row: Row) -> set[str]:
    """What `asked_for` may name of a row."""
    width = f"width {row['width']:g}"
    return {row["model"], f"recipe {row.get('recipe')}", width, f"seed {row.get('seed')}"}


def read_side(folder: Path) -> Side:
    """One folder of results; raises CompanionError if it holds no results."""
    if not folder.is_dir():
        raise CompanionError(f"{folder} is not a folder; name results/EXPERIMENT or results/devices/DEVICE")
    if not any((folder / f"{table}.csv").exists() for table in TABLES):
        inner = sorted({path.parent.name for table in TABLES for path in folder.glob(f"*/{table}.csv")})
        if (folder / CONFIGURATION).exists():
            raise CompanionError(f"{folder} holds no result tables yet: its run is not finished; go on with it first")
        hint = f"; name one of its folders: {', '.join(inner)}" if inner else ""
        raise CompanionError(f"{folder} holds no result tables such as speed.csv{hint}")
    return Side(folder, Results(folder))
