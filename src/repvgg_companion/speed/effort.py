"""How far one call of a measuring verb goes, and the options that say so. No torch."""

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError

KINDS = ("group", "memory")
"""The kinds of finished work in a state folder."""


@dataclass(frozen=True)
class Effort:
    """How far one call goes: until a moment of `time.monotonic`, or only through what is kept (`finish`)."""

    deadline: float | None = None
    finish: bool = False

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, infinite without one."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """The request that all measuring verbs share: where rows go, where finished work is kept, how far the call goes."""

    experiment: str
    output: str
    runs: str
    state: str | None = None
    minutes: float | None = None
    finish: bool = False
    forget: bool = False

    def __post_init__(self) -> None:
        """Raise CompanionError if work is to be kept, but no folder is named."""
        if (self.minutes is not None or self.finish) and not self.state:
            raise CompanionError("--minutes and --finish need --state, the folder where finished work is kept")

    @property
    def folder(self) -> Path:
        """Where finished work is kept."""
        assert self.state
        return Path(self.state)

    @contextlib.contextmanager
    def with_folder(self) -> Iterator[Self]:
        """The request with a folder for finished work: a temporary one if none is named."""
        if self.state:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="measuring-") as folder:
            yield replace(self, state=folder)

    def effort(self) -> Effort:
        """How far this call goes, counted from now."""
        return Effort(None if self.minutes is None else time.monotonic() + 60 * self.minutes, self.finish)

    def require(self, found: Sequence[Any]) -> None:
        """Raise CompanionError if nothing was measured or kept."""
        if not found:
            raise CompanionError(f"{self.state} holds nothing finished of this plan, device and commit; measure")

    def write(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Write all rows; then remove the finished work if it is to be forgotten."""
        write_rows(self.output, table, rows)
        if self.forget and not self.finish:
            for kind in KINDS:
                for path in self.folder.glob(f"{kind}-*.json"):
                    path.unlink()
                for partial in self.folder.glob(f".{kind}-*.partial"):  # a kill left it while it was written
                    shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # something else lies there
                self.folder.rmdir()


def add_measure_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `MeasureRequest`."""
    parser.add_argument("--experiment", required=True, help="name of the experiment, written into every row")
    parser.add_argument("--output", required=True, help="CSV of the rows")
    parser.add_argument("--runs", required=True, help="folder of the run's JSON file")
    parser.add_argument("--state", help="folder that keeps finished work; a later call continues from it")
    parser.add_argument("--minutes", type=float, help="time limit; a group that would not fit is left; needs --state")
    parser.add_argument("--finish", action="store_true", help="write the rows of what is in --state and stop measuring")
    parser.add_argument("--forget", action="store_true", help="empty --state after everything is measured and written")
