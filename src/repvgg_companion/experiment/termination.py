"""How a run and its jobs end where Snakemake does not do it well: by a SIGTERM, with nothing to do, by a user error.

A SIGTERM (`kill`, a scheduler, the end of a session) stops the workflow as Ctrl-C does. Snakemake's own handler waits
until the running jobs have ended by themselves, which for trainings can take weeks, and takes a lock that the
interrupted code may hold. If there is nothing to do, Snakemake calls no hook, so nothing would say where the results
are. And Snakemake's `retries` repeat a job after any error, also one that only the user can fix.
"""

import atexit
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from repvgg_companion.errors import needs_fixing


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


CLOCKS_DIFFER_S = 60.0
"""The clock of a file server may be behind by this much."""


def no_retry_of_user_errors(workflow: Any) -> None:
    """From now on a job whose log ends with an error that the user must fix has no attempt left.

    Snakemake logs the error of a job just before it decides whether to try again. Later runs begin with all attempts.
    """
    from snakemake.logging import logger
    from snakemake_interface_logger_plugins.common import LogEvent

    began = time.time() - CLOCKS_DIFFER_S

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            facts = vars(record)
            if facts.get("event") != LogEvent.JOB_ERROR:
                return
            try:
                if any(_ends_with_user_error(Path(path), began) for path in facts["log"]):
                    for job in workflow.dag.jobs:
                        if workflow.dag.jobid(job) == facts["jobid"]:
                            job.attempt = max(job.attempt, job.restart_times + 1)
            except Exception:  # of another version of Snakemake: it is reported, and the job is tried again
                self.handleError(record)

    logger.addHandler(Listener())


def _ends_with_user_error(log: Path, began: float) -> bool:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        return log.stat().st_mtime > began and needs_fixing(lines[-1])
    except OSError:  # another node's file may not be seen yet: then the job is tried again
        return False


def at_nothing_to_do(end: Callable[[], object]) -> None:
    """Call `end` at the exit of this process if Snakemake says that there is nothing to do."""
    from snakemake.common import NOTHING_TO_BE_DONE_MSG
    from snakemake.logging import logger

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == NOTHING_TO_BE_DONE_MSG:
                atexit.register(end)

    logger.addHandler(Listener())
