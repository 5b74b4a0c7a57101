"""The end of a call of `measure-device`: an exception at its deadline or at a signal, wherever the main thread is."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import ClassVar, Self

from repvgg_companion.training.job.stop import SIGNALS, listen_to_signals


class Stopped(BaseException):
    """The time is over or a signal came. No Exception, so that nothing on the way takes it for a failure."""


class Alarm:
    """Raises Stopped in the main thread at `end`, a moment of `time.monotonic`, and at a signal that asks for a stop.

    Again every second, for a library that swallows it. `reason` is then the signal's name.
    """

    held: ClassVar[int] = 0
    """How many sections the main thread is in that must not be interrupted."""

    def __init__(self, end: float) -> None:
        self.end, self.reason, self._armed = end, "", False

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
        listen_to_signals(self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, max(self.end - time.monotonic(), 0.001), 1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in SIGNALS:  # what is left to do, writing the rows, must not be interrupted
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
        self._raise()

    def _on_alarm(self, _number: int, _: FrameType | None) -> None:
        self._raise()

    def _raise(self) -> None:
        if self._armed and not Alarm.held:
            raise Stopped


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A section that an alarm does not interrupt: it is raised again within a second of the section's end.

    For code that leaves the process broken if an exception comes in its middle, such as torch's profiler.
    """
    Alarm.held += 1
    try:
        yield
    finally:
        Alarm.held -= 1
