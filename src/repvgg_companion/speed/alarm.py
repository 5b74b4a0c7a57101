"""The end of a call of `measure-device`: an exception at its deadline or at a signal, wherever the main thread is."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import ClassVar, Self

from repvgg_companion.training.job.stop import SIGNALS, listen_to_signals

GRACE_S = 5.0
"""A stop waits this long for the end of the call under way."""


class Stopped(BaseException):
    """The time is over or a signal came. Not an Exception, so that no `except Exception` takes it for a failure."""


class Alarm:
    """Raises Stopped in the main thread after `end`, a moment of `time.monotonic`, or a signal that asks for a stop.

    At first only `stop_if_due` raises it, between two calls of a network. If that is not called within `grace_s`,
    Stopped is raised wherever the main thread is, and again every second, because a library may swallow it. An
    exception in the middle of a library's work may crash the process. `reason` is the signal's name.
    """

    held: ClassVar[int] = 0
    """How many sections the main thread is in that must not be interrupted."""
    armed: ClassVar["Alarm | None"] = None

    def __init__(self, end: float, grace_s: float = GRACE_S) -> None:
        self.end, self.grace_s, self.reason = end, grace_s, ""
        self._due, self._raise_at = False, 0.0

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
        listen_to_signals(self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)
        Alarm.armed = self
        signal.setitimer(signal.ITIMER_REAL, max(self.end - time.monotonic(), 0.001), 1.0)
        return self

    def __exit__(self, *_: object) -> None:
        Alarm.armed = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in SIGNALS:  # what is left to do, writing the rows, must not be interrupted
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Restore the signal handlers that were set before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        self._stop()

    def _on_alarm(self, _number: int, _: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if not self._due:
            self._due, self._raise_at = True, time.monotonic() + 0.9 * self.grace_s
            signal.setitimer(signal.ITIMER_REAL, self.grace_s, 1.0)
        elif time.monotonic() >= self._raise_at and not Alarm.held:
            self.raise_if_due()

    def raise_if_due(self) -> None:
        """Raise Stopped if the time is over or a signal came."""
        if self._due and Alarm.armed is self:
            raise Stopped


def stop_if_due() -> None:
    """Raise Stopped here if the alarm that is set is due."""
    if Alarm.armed is not None:
        Alarm.armed.raise_if_due()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A section that an alarm does not interrupt; Stopped is raised within a second after its end.

    For code that leaves the process broken if an exception comes in its middle, such as torch's profiler.
    """
    Alarm.held += 1
    try:
        yield
    finally:
        Alarm.held -= 1
