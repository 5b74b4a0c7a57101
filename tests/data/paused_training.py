"""Pause a training under the workflow at a known place: it neither goes on nor ends, however quick the machine is."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from repvgg_companion.training.job.holder import read_heartbeat

LIMIT_S = 900


def paused_training(
    folder: Path, process: subprocess.Popen, said: Callable[[], str], *, attempt: int = 1, after_step: int = 0
) -> int:
    """Pause the training of `folder` whose `attempt` has written a checkpoint after a step; returns its process.

    `process` runs the workflow, and `said` tells what it said so far. SIGCONT lets the training go on.
    """
    limit = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < limit:
        for state in folder.glob("results/state/*/*/*/seed*"):
            beat = read_heartbeat(state)
            written = [int(path.name.split("-")[1]) for path in state.glob("checkpoint-*.safetensors")]
            if beat and beat["attempt"] == attempt and max(written, default=0) > after_step:
                pid = json.loads((state / "holder.json").read_text())["pid"]
                os.kill(pid, signal.SIGSTOP)
                return pid
        time.sleep(0.02)
    raise AssertionError(f"no training wrote a checkpoint:\n{said()}")


def resume_with(pid: int, number: int) -> None:
    """Let a paused training go on once the signal `number`, sent by somebody else, waits for it."""
    limit = time.monotonic() + LIMIT_S
    while not _waiting_signals(pid) >> (number - 1) & 1:
        assert time.monotonic() < limit, f"nobody sent {signal.Signals(number).name} to {pid}"
        time.sleep(0.02)
    os.kill(pid, signal.SIGCONT)


def _waiting_signals(pid: int) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["ShdPnd"], 16) | int(lines["SigPnd"], 16)
