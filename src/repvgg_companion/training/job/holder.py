"""Who holds a state folder: one process at a time.

The holder locks the file `lock`; the system frees the lock when the process dies. `holder.json` says who holds it, and
the holder shows at every step that it is alive, in `heartbeat`. Where the file system has no locks, a holder counts as
dead once it has shown nothing for `DEAD_AFTER_SECONDS`. Needs no torch.
"""

import contextlib
import datetime
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import NoFileLocksError, locked_file, read_json, write_json

ORPHAN_SECONDS = 30.0
"""How long the lock may outlive a killed trainer: its loader processes notice its death within a few seconds."""
ELSEWHERE_SECONDS = 10.0
"""How long to wait for a heartbeat of a holder on another host, whose lock is not visible here."""
DEAD_AFTER_SECONDS = 1800.0
"""Without file locks, a holder whose last heartbeat is older is dead; no step or validation batch takes longer."""
SETTLE_SECONDS = 1.0
"""Without file locks, a process waits this long before it looks whether another has put its name into holder.json."""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_heartbeat(folder: Path) -> dict[str, Any] | None:
    """The last heartbeat in a state folder: attempt, step, time (seconds since 1970), loss or None."""
    try:
        attempt, step, moment, loss = (folder / "heartbeat").read_text().split()
        return {
            "attempt": int(attempt),
            "step": int(step),
            "time": float(moment),
            "loss": None if loss == "-" else float(loss),
        }
    except (OSError, ValueError):
        return None


class FolderHold:
    """The right to change a state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own: dict[str, Any] | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the folder; raises CompanionError that says who else does. Any death of this process frees it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                self._lock(stack)
            except NoFileLocksError as error:
                self._take_without_lock(error)
            else:
                self._refuse_a_live_holder_elsewhere()
                self._write_own_name()
            try:
                yield
            finally:
                if self.holder() == self._own:
                    (self.folder / "holder.json").unlink(missing_ok=True)

    def is_taken(self) -> bool:
        """Whether a process holds the folder right now."""
        if not (self.folder / "lock").exists():
            return False
        try:
            with locked_file(self.folder / "lock"):
                return False
        except TimeoutError:
            return True
        except NoFileLocksError:
            return self._seems_alive()

    def holder(self) -> dict[str, Any] | None:
        """The process that claims to hold the folder: pid, host, since, slurm_job; None if there is none."""
        try:
            return read_json(self.folder / "holder.json")
        except CompanionError:
            return None

    def _lock(self, stack: contextlib.ExitStack) -> None:
        path = self.folder / "lock"
        try:
            stack.enter_context(locked_file(path))
        except TimeoutError:
            try:
                stack.enter_context(locked_file(path, wait_s=ORPHAN_SECONDS if self._is_dead_here() else 0))
            except TimeoutError:
                raise CompanionError(self._refusal()) from None

    def _take_without_lock(self, error: NoFileLocksError) -> None:
        if self._seems_alive():
            raise CompanionError(
                f"{self._refusal()} ({error}; its last heartbeat is {self._silence_s():.0f} s old, and it counts as "
                f"dead after {DEAD_AFTER_SECONDS:.0f} s)"
            )
        if self.holder() is not None:
            silence = self._silence_s()
            print(f"train: {self._name()} counts as dead, silent for {silence:.0f} s; {error}", file=sys.stderr)
        self._write_own_name()
        time.sleep(SETTLE_SECONDS)
        if self.holder() != self._own:
            raise CompanionError(self._refusal())

    def _write_own_name(self) -> None:
        job = os.environ.get("SLURM_JOB_ID")
        self._own = {"pid": os.getpid(), "host": socket.gethostname(), "since": now(), "slurm_job": job}
        write_json(self.folder / "holder.json", self._own)

    def _name(self) -> str:
        holder = self.holder()
        if holder is None:
            return "another process"
        job = f" (Slurm job {holder['slurm_job']})" if holder.get("slurm_job") else ""
        return f"process {holder['pid']} on {holder['host']}{job} since {holder['since']}"

    def _refusal(self) -> str:
        return f"{self.folder} is being trained by {self._name()}; wait until that ends, or end it"

    def _refuse_a_live_holder_elsewhere(self) -> None:
        """Some shared file systems keep locks within a host (NFS without its lock service, Lustre's localflock).

        A holder that ended removed its name. One on another host that did not was killed, or is alive and then shows a
        heartbeat.
        """
        holder = self.holder()
        if holder is None or holder["host"] == socket.gethostname():
            return
        before, end = read_heartbeat(self.folder), time.monotonic() + ELSEWHERE_SECONDS
        while time.monotonic() < end:
            time.sleep(ELSEWHERE_SECONDS / 20)
            if read_heartbeat(self.folder) not in (None, before):
                raise CompanionError(self._refusal())

    def _seems_alive(self) -> bool:
        """Without file locks: whether a process claims the folder and has shown a recent heartbeat."""
        return self.holder() is not None and not self._is_dead_here() and self._silence_s() < DEAD_AFTER_SECONDS

    def _silence_s(self) -> float:
        """Seconds since the holder took the folder or showed a heartbeat."""
        heard = [(read_heartbeat(self.folder) or {"time": 0.0})["time"]]
        with contextlib.suppress(TypeError, KeyError, ValueError):
            heard.append(datetime.datetime.fromisoformat((self.holder() or {})["since"]).timestamp())
        return time.time() - max(heard)

    def _is_dead_here(self) -> bool:
        """Whether the holder was a process of this host that no longer exists."""
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
