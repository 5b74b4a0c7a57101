"""The state folder of one training: who holds it, what it belongs to, what was tried, and what is finished.

It lies outside Snakemake's declared outputs and is the only thing that a training needs to continue:

    state.json           what is trained, and what was decided at the first start (precision, memory format, threads)
    checkpoint-*         see `training.job.checkpoint`
    attempts.jsonl       append-only: a line at the start and at the end of every attempt, with its optimizer steps
    undecodable.jsonl    training images that no decoder can read, where the policy counts them; one line each time seen
    heartbeat            attempt, step, time and loss, rewritten in place at every step
    final.*, history.csv the finished weights; `publish` copies them to the declared outputs
    lock, holder.json    a training belongs to one process at a time

Needs no torch.
"""

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json, write_json
from repvgg_companion.training.recipe import Recipe

FORMAT = 1
HEARTBEAT_BYTES = 96
ORPHAN_SECONDS = 30.0
"""How long the lock may outlive a killed trainer: its loader processes notice its death within a few seconds."""
ELSEWHERE_SECONDS = 10.0
"""How long a holder on another host, whose lock does not reach us, is given to show a heartbeat."""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class StateFolder:
    """One training's folder; everything that changes it runs inside `locked()`."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.attempt = 0
        self._from_step = 0
        self._heartbeat: int | None = None

    # -- who holds it

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; raises CompanionError that says who else does. Any death of this process frees it."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            try:
                lock.acquire(timeout=ORPHAN_SECONDS if self._holder_is_dead() else 0)
            except Timeout:
                raise CompanionError(self._held()) from None
        except NotImplementedError:
            raise CompanionError(
                f"{self.folder} lies on a file system without file locks; give the training a --state on another one"
            ) from None
        try:
            self._refuse_a_live_holder_elsewhere()
        except CompanionError:
            lock.release()
            raise
        try:
            write_json(
                self.folder / "holder.json",
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": now(),
                    "slurm_job": os.environ.get("SLURM_JOB_ID"),
                },
            )
            yield
        finally:
            (self.folder / "holder.json").unlink(missing_ok=True)
            if self._heartbeat is not None:
                os.close(self._heartbeat)
                self._heartbeat = None
            lock.release()

    def is_held(self) -> bool:
        """Whether a process holds the folder right now."""
        from filelock import FileLock, Timeout

        if not (self.folder / "lock").exists():
            return False
        try:
            with FileLock(self.folder / "lock").acquire(timeout=0):
                return False
        except Timeout:
            return True

    def holder(self) -> dict[str, Any] | None:
        """Who wrote that it holds the folder: pid, host, since, slurm_job; None where nobody did."""
        try:
            return read_json(self.folder / "holder.json")
        except CompanionError:
            return None

    def _holder(self) -> str:
        holder = self.holder()
        if holder is None:
            return "another process"
        job = f" (Slurm job {holder['slurm_job']})" if holder.get("slurm_job") else ""
        return f"process {holder['pid']} on {holder['host']}{job} since {holder['since']}"

    def _held(self) -> str:
        return f"{self.folder} is being trained by {self._holder()}; wait until that ends, or end it"

    def _refuse_a_live_holder_elsewhere(self) -> None:
        """Some shared file systems keep locks within a host (NFS without its lock service, Lustre's localflock).

        A holder that ended took its name away; one on another host that did not was killed, or is alive and then shows
        a heartbeat.
        """
        holder = self.holder()
        if holder is None or holder["host"] == socket.gethostname():
            return
        before, end = self.heartbeat(), time.monotonic() + ELSEWHERE_SECONDS
        while time.monotonic() < end:
            time.sleep(ELSEWHERE_SECONDS / 20)
            if self.heartbeat() not in (None, before):
                raise CompanionError(self._held())

    def _holder_is_dead(self) -> bool:
        holder = self.holder()
        if holder is None or holder["host"] != socket.gethostname():
            return False
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    # -- what it belongs to

    def check(self, training: Mapping[str, Any], recipe: Recipe) -> bool:
        """Whether there is a state already; raises CompanionError naming what differs from the training asked for.

        `training` holds what identifies it beside the recipe: model, width, num_classes, dataset, dataset_sha256, seed.
        """
        stored = self.stored()
        if stored is None:
            return False
        advice = "give it a folder of its own with --state, or restore the settings"
        if stored.get("format") != FORMAT:
            raise CompanionError(f"{self.folder} was written by another version of the companion; {advice}")
        for name, value in training.items():
            if stored["training"].get(name) != value:
                kind = (
                    "other images"
                    if name == "dataset_sha256"
                    else f"{name} {stored['training'].get(name)}, not {value}"
                )
                raise CompanionError(f"{self.folder} holds a training with {kind}; {advice}")
        if different := recipe.differences(stored["recipe"]):
            raise CompanionError(f"{self.folder} holds a training by another recipe ({'; '.join(different)}); {advice}")
        return True

    def stored(self) -> dict[str, Any] | None:
        """The content of state.json; None where the training has never started."""
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

    # -- what was tried

    def attempts(self) -> list[dict[str, Any]]:
        """The lines of the attempt log; a line cut off by a power loss is left out."""
        path = self.folder / "attempts.jsonl"
        if not path.exists():
            return []
        lines = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

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
        """Close the log of an attempt that was killed, from its heartbeat, and open the next one."""
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
        """Note that `step` optimizer steps are done, in place: some microseconds, and it survives the process."""
        shown = "-" if loss is None else f"{loss:.6g}"
        text = f"{self.attempt} {step} {time.time():.1f} {shown}"
        os.pwrite(self._heartbeat, text.ljust(HEARTBEAT_BYTES - 1).encode() + b"\n", 0)

    def end_attempt(self, reason: str, to_step: int, **facts: Any) -> None:
        """Close this attempt in the log."""
        with contextlib.suppress(OSError):  # a full disk must not hide why it ended; the next attempt closes the log
            self.log("end", reason=reason, from_step=self._from_step, to_step=to_step, **facts)

    def heartbeat(self) -> dict[str, Any] | None:
        """The last note of `beat`: attempt, step, time (seconds since 1970), loss or None."""
        try:
            attempt, step, moment, loss = (self.folder / "heartbeat").read_text().split()
            return {
                "attempt": int(attempt),
                "step": int(step),
                "time": float(moment),
                "loss": None if loss == "-" else float(loss),
            }
        except (OSError, ValueError):
            return None

    # -- what could not be read

    def note_undecodable(self, index: int, where: str, reason: str) -> None:
        """Append one training image to the list; several processes and attempts may name the same."""
        line = json.dumps({"index": index, "where": where, "reason": reason}) + "\n"
        with (self.folder / "undecodable.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line)

    def undecodable(self) -> dict[int, str]:
        """Place and reason of every undecodable training image met so far, by its index in the manifest."""
        path = self.folder / "undecodable.jsonl"
        found = {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):  # a line cut off by a power loss
                image = json.loads(line)
                found[image["index"]] = f"{image['where']}: {image['reason']}"
        return found


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
