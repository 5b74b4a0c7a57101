"""The verb `status`: print one line for each training, from its state folder. Needs no torch."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json
from repvgg_companion.training.job.checkpoint import checkpoint_files
from repvgg_companion.training.job.publish import SEAL
from repvgg_companion.training.job.state import StateFolder

HEADER = ("training", "state", "epoch", "step", "checkpoint", "left", "host", "loss")


@dataclass(frozen=True)
class Status:
    """The progress of a training.

    `state` is running, stopped, failed, killed, finished or unreadable; ages and times are in seconds, None if unknown.
    """

    training: str
    state: str
    epoch: int | None
    epochs: int | None
    step: int
    total_steps: int | None
    checkpoint_age_s: float | None
    left_s: float | None
    host: str
    loss: float | None
    message: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `status` verb."""
    parser.add_argument("--state", default="results/state", help="folder of all training states")


def run(arguments: argparse.Namespace) -> None:
    """Print one line for each training below the folder, and the sentence of each that failed."""
    found = [
        _readable_status(path.parent, arguments.state) for path in sorted(Path(arguments.state).rglob("state.json"))
    ]
    if not found:
        raise CompanionError(f"{arguments.state} holds no training; start one, or name its folder with --state")
    rows = [HEADER, *map(_cells, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for status in found:
        if status.message:
            print(f"{status.training}: {status.message}")


def _readable_status(folder: Path, root: str | Path) -> Status:
    """The status; a damaged folder has the state unreadable, so that it does not hide the others."""
    try:
        return status_of(folder, root)
    except (CompanionError, KeyError, TypeError) as error:
        what = (
            str(error) if isinstance(error, CompanionError) else f"{folder}/state.json is not the state of a training"
        )
        name = str(folder.relative_to(root))
        return Status(name, "unreadable", None, None, 0, None, None, None, "", None, message=what)


def status_of(folder: str | Path, root: str | Path = "") -> Status:
    """The progress of the training in a state folder, which has a state.json; `root` is left out of its name."""
    state = StateFolder(folder)
    attempts, beat = state.attempts(), state.heartbeat()
    starts = [line for line in attempts if line["event"] == "start"]
    last = attempts[-1] if attempts else {}
    start = starts[-1] if starts else {}
    step = beat["step"] if beat else 0
    steps_per_epoch = start.get("steps_per_epoch")
    epochs = (state.stored() or {})["recipe"]["epochs"]
    total = steps_per_epoch * epochs if steps_per_epoch else None
    finished = (state.folder / SEAL).exists()
    if finished:
        step = read_json(state.folder / SEAL)["steps"]
    running = not finished and _is_held(state)
    files = checkpoint_files(state.folder)
    return Status(
        training=str(state.folder.relative_to(root)) if root else str(state.folder),
        state="finished" if finished else "running" if running else _ended(last),
        epoch=min(step // steps_per_epoch + 1, epochs) if steps_per_epoch else None,
        epochs=epochs,
        step=step,
        total_steps=total,
        checkpoint_age_s=time.time() - files[0].path.stat().st_mtime if files else None,
        left_s=_seconds_left(start, beat, total) if running else None,
        host=start.get("host", ""),
        loss=beat["loss"] if beat else None,
        message=last.get("message", "") if not running and not finished else "",
    )


def _is_held(state: StateFolder) -> bool:
    try:
        return state.is_held()
    except PermissionError:  # another user's training, whose lock may not be opened
        return state.holder() is not None


def _ended(last: dict) -> str:
    if last.get("event") == "start":
        return "killed"
    return {"error": "failed", "killed": "killed"}.get(last.get("reason", ""), "stopped")


def _seconds_left(start: dict, beat: dict | None, total: int | None) -> float | None:
    """Estimated from the rate of this attempt since its first step."""
    if beat is None or total is None or beat["step"] <= start["from_step"] or beat["attempt"] != start["attempt"]:
        return None
    rate = (beat["step"] - start["from_step"]) / max(beat["time"] - start["started_s"], 1e-6)
    return (total - beat["step"]) / rate


def _cells(status: Status) -> tuple[str, ...]:
    def clock(seconds: float | None) -> str:
        if seconds is None:
            return "-"
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}"

    age = clock(status.checkpoint_age_s)
    return (
        status.training,
        status.state,
        f"{status.epoch or '-'}/{status.epochs or '-'}",
        f"{status.step}/{status.total_steps or '-'}",
        "none" if status.checkpoint_age_s is None else f"{age} ago",
        clock(status.left_s),
        status.host or "-",
        "-" if status.loss is None else f"{status.loss:.4f}",
    )
