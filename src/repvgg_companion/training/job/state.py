"""The state folder of one training: what it belongs to, and what was tried. Needs no torch.

It is outside Snakemake's declared outputs, and the only thing that a training needs to continue:

    state.json            what is trained, and what was decided at the first start (precision, memory format, threads)
    checkpoint-*          see `training.job.checkpoint`
    attempts.jsonl        append-only: a line at the start and at the end of every attempt, with its optimizer steps
    undecodable.jsonl     training images that no decoder can read, under the policy count; one line each time seen
    heartbeat             attempt, step, time and loss, rewritten in place at every step
    final.*, final-*      the finished weights and history; `training.job.publish` copies them to the declared outputs
    lock, holder.json     a training belongs to one process at a time, see `training.job.holder`
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json, write_json
from repvgg_companion.training.job.holder import FolderHold, now, read_heartbeat
from repvgg_companion.training.recipe import Recipe

FORMAT = 1
HEARTBEAT_BYTES = 96


class StateFolder:
    """One training's folder; everything that changes it runs inside `locked()`."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._hold = FolderHold(self.folder)
        self.attempt = 0
        self._from_step = 0
        self._heartbeat: int | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; raises CompanionError that says who else does. Any death of this process frees it."""
        with self._hold.taken():
            try:
                yield
            finally:
                if self._heartbeat is not None:
                    os.close(self._heartbeat)
                    self._heartbeat = None

    def is_held(self) -> bool:
        """Whether a process holds the folder right now."""
        return self._hold.is_taken()

    def holder(self) -> dict[str, Any] | None:
        """The process that claims to hold the folder: pid, host, since, slurm_job; None if there is none."""
        return self._hold.holder()

    def heartbeat(self) -> dict[str, Any] | None:
        """The last note of `beat`: attempt, step, time (seconds since 1970), loss or None."""
        return read_heartbeat(self.folder)

    # -- what it belongs to

    def check(self, training: Mapping[str, Any], recipe: Recipe) -> bool:
        """Whether there is a state; raises CompanionError naming what differs from the training asked for.

        `training` identifies it without the recipe: model, width, num_classes, dataset, dataset_sha256, seed.
        """
        stored = self.stored()
        if stored is None:
            return False
        advice = "give this training its own folder with --state, or restore the settings"
        if stored.get("format") != FORMAT:
            raise CompanionError(f"{self.folder} was written by another version of the companion; {advice}")
        for name, value in training.items():
            if stored["training"].get(name) != value:
                kind = f"{name} {stored['training'].get(name)}, not {value}"
                if name == "dataset_sha256":
                    kind = "other images"
                    advice = f"give the changed images a data.dataset of their own, or {advice}"
                raise CompanionError(f"{self.folder} holds a training with {kind}; {advice}")
        if different := recipe.differences(stored["recipe"]):
            raise CompanionError(f"{self.folder} holds a training by another recipe ({'; '.join(different)}); {advice}")
        return True

    def stored(self) -> dict[str, Any] | None:
        """The content of state.json; None if the training has never started."""
        path = self.folder / "state.json"
        if not path.exists():
            return None
        try:
            return read_json(path)
        except CompanionError:
            raise CompanionError(
                f"{path} is damaged; restore it from a backup, or move {self.folder} away to train again"
            ) from None

    def begin(self, training: Mapping[str, Any], recipe: Recipe, decided: Mapping[str, Any], **facts: Any) -> None:
        """Write state.json at the first start; `decided` is what later attempts must not decide again."""
        content = {
            "format": FORMAT,
            "training": dict(training),
            "recipe": json.loads(recipe.to_json()),
            "decided": dict(decided),
            "started": now(),
            **facts,
        }
        write_json(self.folder / "state.json", content)

    # -- attempts

    def attempts(self) -> list[dict[str, Any]]:
        """The lines of the attempt log."""
        return _lines_of(self.folder / "attempts.jsonl")

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to the attempt log and flush it to disk."""
        line = json.dumps({"attempt": self.attempt, "event": event, "time": now(), **facts}, sort_keys=True)
        with (self.folder / "attempts.jsonl").open("ab") as stream:
            if stream.tell() and not _ends_with_newline(self.folder / "attempts.jsonl"):
                stream.write(b"\n")
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def start_attempt(self, from_step: int, **facts: Any) -> None:
        """Close the log of an attempt that was killed, using its heartbeat, and open the next one."""
        self.close_open_attempt("killed")
        lines = self.attempts()
        self.attempt = (lines[-1]["attempt"] if lines else 0) + 1
        self._from_step = from_step
        self._heartbeat = os.open(self.folder / "heartbeat", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.log(
            "start",
            from_step=from_step,
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            started_s=round(time.time(), 1),
            **facts,
        )
        self.beat(from_step)

    def close_open_attempt(self, reason: str) -> None:
        """Write the end of an attempt that was killed before it could, from its heartbeat."""
        lines = self.attempts()
        if not lines or lines[-1]["event"] != "start":
            return
        self.attempt = lines[-1]["attempt"]
        beat = self.heartbeat()
        to_step = beat["step"] if beat and beat["attempt"] == self.attempt else lines[-1]["from_step"]
        self.log("end", reason=reason, from_step=lines[-1]["from_step"], to_step=to_step)

    def beat(self, step: int, loss: float | None = None) -> None:
        """Note in place that `step` optimizer steps are done; takes some microseconds and survives the process."""
        assert self._heartbeat is not None, "an attempt beats between its start and its end"
        shown = "-" if loss is None else f"{loss:.6g}"
        text = f"{self.attempt} {step} {time.time():.1f} {shown}"
        os.pwrite(self._heartbeat, text.ljust(HEARTBEAT_BYTES - 1).encode() + b"\n", 0)

    def end_attempt(self, reason: str, to_step: int, **facts: Any) -> None:
        """Close this attempt in the log."""
        with contextlib.suppress(OSError):  # a full disk must not hide the reason; the next attempt closes the log
            self.log("end", reason=reason, from_step=self._from_step, to_step=to_step, **facts)

    # -- images that could not be decoded

    def note_undecodable(self, index: int, where: str, reason: str) -> None:
        """Append one training image to the list; several processes and attempts may add the same."""
        line = json.dumps({"index": index, "where": where, "reason": reason}) + "\n"
        with (self.folder / "undecodable.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line)

    def undecodable(self) -> dict[int, str]:
        """Place and reason of every undecodable training image met so far, by its index in the manifest."""
        images = _lines_of(self.folder / "undecodable.jsonl")
        return {image["index"]: f"{image['where']}: {image['reason']}" for image in images}


def _lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, without one that a power loss cut off; none where it does not exist."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
