"""When a training stops: on a signal, before Slurm's time limit, or before a deadline. Needs no torch.

On clusters no signal reaches a training that runs below a batch script (proctrack/cgroup signals the direct child
only), so the trainer watches the clock itself.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import process_age_s

DEFAULT_MARGIN_S = 60.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def listen_to_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call `handler` for the signals that ask for a stop; for SIGHUP (a closed terminal) unless nohup ignores it."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@dataclass(frozen=True)
class TimeLimits:
    """When a training must end.

    `deadline_minutes` after the start of the process takes precedence over Slurm's limit, and that over
    `scheduler_minutes`, the limit of another scheduler. `margin_s` is the time that a last checkpoint and the exit
    need before the end.
    """

    deadline_minutes: float | None = None
    margin_s: float = DEFAULT_MARGIN_S
    scheduler_minutes: float | None = None


class StopWatch:
    """Tells, between two steps, whether and why the training must stop."""

    def __init__(self, limits: TimeLimits) -> None:
        self.margin_s = margin_s = limits.margin_s
        self.signalled: str | None = None
        self._owner = os.getpid()
        self._job = os.environ.get("SLURM_JOB_ID")
        self.end: float | None = None
        if limits.deadline_minutes is not None:
            self.end = _minutes_after_process_start(limits.deadline_minutes)
        elif self._job and (left := slurm_seconds_left(self._job)) is not None:
            self.end = time.monotonic() + left
        elif limits.scheduler_minutes is not None:
            self.end = _minutes_after_process_start(limits.scheduler_minutes)
        if self.end is not None and self.seconds_left() <= 0:
            raise CompanionError(
                f"the time limit leaves {self.end - time.monotonic():.0f} s, less than the {margin_s:.0f} s that a "
                "checkpoint needs; give the job more minutes"
            )

    def listen(self) -> None:
        """Take SIGTERM, SIGINT, SIGUSR1 and SIGHUP as requests to stop after the current step."""
        listen_to_signals(self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked loader process inherits this handler, and Ctrl-C reaches it too; only its parent decides.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.signalled = signal.Signals(number).name

    def seconds_left(self) -> float:
        """Seconds until the training must stop, infinite without a deadline."""
        return float("inf") if self.end is None else self.end - self.margin_s - time.monotonic()

    def reason(self) -> str | None:
        """Why to stop now: a signal's name, `deadline`, or None. Notices when Slurm's limit was extended."""
        if self.signalled:
            return self.signalled
        if self.end is None or self.seconds_left() > 0:
            return None
        if self._job and (left := slurm_seconds_left(self._job)) is not None:
            self.end = max(self.end, time.monotonic() + left)
            if self.seconds_left() > 0:
                return None
        return "deadline"


def slurm_seconds_left(job: str) -> float | None:
    """Seconds that Slurm leaves a job; None if it sets no limit or cannot be asked."""
    try:
        done = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%L"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        return float(end) - time.time() if end.isdigit() else None
    return parse_slurm_time(done.stdout.strip())


def parse_slurm_time(text: str) -> float | None:
    """Seconds of Slurm's `[D-][[HH:]MM:]SS`; None for UNLIMITED, NOT_SET and the like.

    With days given the first field is hours: `1-02` is 26 hours.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        return None
    days, *fields = match.groups()
    numbers = [int(field) for field in fields if field is not None]
    if days is not None:
        hours, minutes, seconds = numbers + [0] * (3 - len(numbers))
    else:
        hours, minutes, seconds = [0] * (3 - len(numbers)) + numbers
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)


def _minutes_after_process_start(minutes: float) -> float:
    return time.monotonic() + 60 * minutes - process_age_s()
