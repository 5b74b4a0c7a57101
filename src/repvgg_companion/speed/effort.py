"""How far one call of a measuring verb goes, and the options that say so. No torch."""

import argparse
import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class StateOptions:
    """The options that all measuring verbs share: where finished work is kept, and how far the call goes."""

    state: str | None = None
    minutes: float | None = None
    finish: bool = False
    forget: bool = False

    def __post_init__(self) -> None:
        """Raise CompanionError if work is to be kept, but no folder is named."""
        if (self.minutes is not None or self.finish) and not self.state:
            raise CompanionError("--minutes and --finish need --state, the folder where finished work is kept")

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "StateOptions":
        """The options of a verb."""
        return cls(arguments.state, arguments.minutes, arguments.finish, arguments.forget)

    def effort(self) -> Effort:
        """How far this call goes, counted from now."""
        return Effort(None if self.minutes is None else time.monotonic() + 60 * self.minutes, self.finish)

    def conclude(self) -> None:
        """Called when all rows are written: removes the finished work if it is to be forgotten."""
        if self.forget and self.state and not self.finish:
            folder = Path(self.state)
            for kind in KINDS:
                for path in folder.glob(f"{kind}-*.json"):
                    path.unlink()
                for partial in folder.glob(f".{kind}-*.partial"):  # a kill left it while it was written
                    shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # something else lies there
                folder.rmdir()


def add_state_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `StateOptions`."""
    parser.add_argument("--state", help="folder where finished work is kept; a later call goes on from there")
    parser.add_argument("--minutes", type=float, help="end by then: nothing is begun that will not fit; needs --state")
    parser.add_argument("--finish", action="store_true", help="write the rows of what is in --state, measure no more")
    parser.add_argument("--forget", action="store_true", help="empty --state when all is measured and written")
