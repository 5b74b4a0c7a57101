"""How a run ends where Snakemake does not do it well: by a SIGTERM, and with nothing to do.

A SIGTERM (`kill`, a scheduler, the end of a session) stops the workflow as Ctrl-C does. Snakemake's own handler waits
until the running jobs have ended by themselves, which for trainings can take weeks, and takes a lock that the
interrupted code may hold. Where nothing is to be done Snakemake calls no hook, so nothing would say where the results
are.
"""

import atexit
import contextlib
import logging
import signal
from collections.abc import Callable
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


def at_nothing_to_do(end: Callable[[], object]) -> None:
    """Call `end` at the exit of this process if Snakemake says that there is nothing to do."""
    from snakemake.common import NOTHING_TO_BE_DONE_MSG
    from snakemake.logging import logger

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == NOTHING_TO_BE_DONE_MSG:
                atexit.register(end)

    logger.addHandler(Listener())
