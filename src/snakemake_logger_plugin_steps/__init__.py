"""What `make` shows of a run of Snakemake: one line per step. `snakemake --logger steps` loads it by its package name.

Warnings and errors are shown; a failed step with its log file and the last lines of that, a stopped one without them.
Snakemake's own log file, which is named at the end, holds everything.
"""

import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

LAST_LINES, LINE_CHARACTERS = 12, 300
"""How much of a failed step's log is shown."""
_UNSAID = (
    "Assuming unrestricted shared", "Building DAG", "Using shell", "Select jobs", "Conda environments: ignored",
    "Singularity containers: ignored", "Group jobs: inactive", "Removing output files of failed", "host: ",
    "DAG of jobs will be updated", "Job rate limit reached", "None",
)  # fmt: skip
"""Beginnings of Snakemake's messages that say nothing to a user."""
_STOPPING = ("Terminating processes on user request", "Will exit after finishing currently running jobs")
"""Snakemake's words after Ctrl-C or SIGTERM; `make` says that it stopped, and how to go on."""
_AFTER_A_FAILURE = (
    "WorkflowError:\nAt least one job did not",
    "At least one job",
    "Exiting because a job execution failed",
)
"""What Snakemake adds after a failed step, or after a stop as if something had failed."""
_AFTER_A_STOP = ("WorkflowError", *_AFTER_A_FAILURE)
_MORE_ABOVE = "\n    (check individual jobs above for details)"
"""A dry run's reasons end their title with it; a line for a step holds no reasons."""
_USER_ERROR = re.compile(r"[a-z-]+: error: ")
"""How a verb begins the sentence about an error that a user can fix."""
_SILENT = (
    LogEvent.JOB_STARTED,
    LogEvent.JOB_FINISHED,
    LogEvent.RESOURCES_INFO,
    LogEvent.WORKFLOW_STARTED,
    LogEvent.DEBUG_DAG,
    LogEvent.RULEGRAPH,
)


class LogHandler(LogHandlerBase):
    """Writes the lines to standard error."""

    def __post_init__(self) -> None:
        """Count no steps yet."""
        self.done = self.total = 0
        self.failures: set[tuple[int, ...]] = set()
        self.stopping = False

    def emit(self, record: logging.LogRecord) -> None:
        """Show what a record says, if it says anything to a user."""
        try:
            text = self.text(record)
        except Exception:
            self.handleError(record)
            return
        if text:
            print(text, file=sys.stderr, flush=True)

    def text(self, record: logging.LogRecord) -> str:
        """The lines for a record; empty for what is not shown."""
        event = getattr(record, "event", None)
        facts: dict[str, Any] = vars(record)
        if event == LogEvent.JOB_INFO:
            if self.common_settings.dryrun:
                return f"would run {step(facts)}"
            return (
                f"[{self.done}/{self.total}] {time.strftime('%H:%M:%S', time.localtime(record.created))} {step(facts)}"
            )
        if event == LogEvent.RUN_INFO:
            self.total = facts.get("stats", {}).get("total", 0)
            return f"{self.total} step{'' if self.total == 1 else 's'}"
        if event == LogEvent.PROGRESS:
            self.done, self.total = facts["done"], facts["total"]
            return f"[{self.done}/{self.total}] all steps are done" if self.done == self.total else ""
        if event == LogEvent.JOB_ERROR:
            return self._failure(facts)
        if event == LogEvent.SHELLCMD:
            return record.getMessage() if self.common_settings.printshellcmds else ""
        said = record.getMessage().strip().replace(_MORE_ABOVE, "")
        if self.common_settings.verbose:
            return said
        # Snakemake prints a failed command in full, which can be thousands of characters; JOB_ERROR follows.
        ended = "exit status" in said or "died with <Signals" in said
        told_twice = event == LogEvent.ERROR and facts.get("exception") == "RuleException" and ended
        silent = record.levelno < logging.WARNING and (event in _SILENT or said.startswith(_UNSAID))
        return "" if told_twice or silent or self._adds_nothing(said) else said

    def _adds_nothing(self, said: str) -> bool:
        self.stopping = self.stopping or said.startswith(_STOPPING)
        if self.failures and said.startswith(_AFTER_A_FAILURE):
            return True
        return self.stopping and said.startswith((*_STOPPING, *_AFTER_A_STOP))

    def _failure(self, facts: dict[str, Any]) -> str:
        key = (facts["jobid"], *(Path(path).stat().st_mtime_ns for path in facts["log"] if Path(path).exists()))
        if key in self.failures:  # Snakemake repeats at its end what it said before
            return ""
        self.failures.add(key)
        continues = any(
            re.search(r"\bstopped by SIG[A-Z]+", line) for path in facts["log"] for line in last_lines(path)
        )
        self.stopping = self.stopping or continues
        if self.stopping and "REPVGG_COMPANION_MAKE" in os.environ:  # `make` says it for all steps in one line
            return ""
        if continues:
            return f"stopped: {step(facts)}; it continues where it was"
        if self.stopping:
            measures = str(facts["rule_name"]).startswith("measure_")
            return f"stopped: {step(facts)}; it " + (
                "keeps the groups that it finished" if measures else "begins again"
            )
        lines = [f"failed: {step(facts)} (job {facts['jobid']})"]
        for path in facts["log"]:
            found = last_lines(path)
            if _USER_ERROR.match(found[-1]):  # the job said it, and `summary` says it at the end of the run
                lines.append(f"  its log is {path}")
            else:
                lines += [f"  the last lines of {path}:", *(f"    {line}" for line in found)]
        if not facts["log"]:
            lines.append("  it has no log file")
        return "\n".join(lines)

    @property
    def writes_to_stream(self) -> bool:
        """It takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake writes its log file itself."""
        return False

    @property
    def has_filter(self) -> bool:
        """`text` chooses."""
        return True

    @property
    def has_formatter(self) -> bool:
        """`text` words."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """No."""
        return False


def step(facts: dict[str, Any]) -> str:
    """A step in words: `train model=RepVGG-A0 digest=0123abcd seed=0`; a failed one is named by an output."""
    words = [str(facts["rule_name"])]
    words += [f"{name}={value}" for name, value in (facts.get("wildcards") or {}).items()]
    if len(words) == 1 and facts.get("output") and "wildcards" not in facts:
        words.append(f"for {facts['output'][0]}")
    return " ".join(words)


def last_lines(path: str) -> list[str]:
    """The last lines of a log file, cut to a readable width."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return [f"it cannot be read ({error.strerror})"]
    return [line[:LINE_CHARACTERS] for line in lines[-LAST_LINES:]] or ["it is empty"]
