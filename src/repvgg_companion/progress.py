"""Progress of long work: a bar on a terminal, one plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

LINE_SECONDS = 5.0


class Progress:
    """Counts towards `total` in `unit`; use it as a context manager and call `advance` and `note`.

    On a terminal it draws a rich bar with rate and time left; in a log file it writes a line every five seconds, so
    that a cluster's log stays readable. It writes to standard error only.
    """

    def __init__(self, title: str, *, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self._note = 0, ""
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self.unit} {{task.fields[rate]}} {{task.fields[note]}}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=False)
            self._task = self._bar.add_task(self.title, total=self.total, rate="", note="")
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line()

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / max(time.monotonic() - self._started, 1e-9)

    def advance(self, count: int = 1) -> None:
        """Count `count` units as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate:,.0f}/s", note=self._note)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._line()

    def note(self, text: str) -> None:
        """Set the words shown beside the count, such as the current loss."""
        self._note = text

    def _line(self) -> None:
        self._last_line = time.monotonic()
        left = (self.total - self.done) / self.rate if self.done else float("nan")
        text = f"{self.title}: {self.done}/{self.total} {self.unit}, {self.rate:,.1f}/s, {left:,.0f} s left"
        print(f"{text}, {self._note}" if self._note else text, file=sys.stderr, flush=True)
