"""A SIGTERM (`kill`, a scheduler, the end of a session) stops the workflow as Ctrl-C does.

Snakemake's own handler waits until the running jobs have ended by themselves, which for trainings can take weeks, and
takes a lock that the interrupted code may hold.
"""

import contextlib
import signal
from types import FrameType


def stop_on_sigterm() -> None:
    """From now on a SIGTERM is passed to the jobs of this process, and raised here as KeyboardInterrupt."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    import psutil  # Snakemake needs it

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # In the background of a script SIGINT is ignored, here and in the jobs.
    number = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    raise KeyboardInterrupt
