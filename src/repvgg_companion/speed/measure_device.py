"""The `measure-device` verb: everything that is worth knowing about this machine, most important part first.

It looks for a GPU, else it takes the CPU, and works through the parts of `device_parts.py`. Every finished group is
kept in the state folder, so a later call goes on after it. The rows of all that was measured are written after every
part, at the end of the minutes, at SIGTERM and at SIGINT. Needs no Snakemake and no pydantic.
"""

import argparse
import errno
import gc
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.errors import CompanionError, Interrupted, one_line
from repvgg_companion.machine.cpu import process_age_s
from repvgg_companion.runs import new_run_id
from repvgg_companion.settings import request_of
from repvgg_companion.speed.alarm import GRACE_S, Alarm, Stopped
from repvgg_companion.speed.device_parts import DevicePart, parts_of
from repvgg_companion.speed.effort import Effort

if TYPE_CHECKING:
    from repvgg_companion.speed.device_work import MeasuredDevice

SHORTEST = 2
"""Minutes that a slow machine needs for the first group."""
RESERVE_S = 15.0
"""This much of the time is reserved for writing the rows."""
CHILD_RESERVE_S = 5.0
"""A process of its own is asked to end this long before its part ends."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class MeasureDeviceRequest:
    """The request of the verb; `part` and `start` name what a child process measures."""

    minutes: float
    device: str
    output: str
    state: str
    full: bool = False
    part: str | None = None
    start: int = 0

    def __post_init__(self) -> None:
        """Raise CompanionError if the minutes are not above 0."""
        if not self.minutes > 0:
            raise CompanionError(f"--minutes is {self.minutes:g}; it must be above 0")

    def child(self, part: DevicePart, start: int, minutes: float) -> list[str]:
        """The words of a child process that measures one part."""
        words = ["measure-device", "--part", part.name, "--start", str(start), "--minutes", f"{minutes:.3f}"]
        words += ["--device", self.device, "--output", self.output, "--state", self.state]
        return [*words, "--full"] if self.full else words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `measure-device` verb."""
    parser.add_argument("--minutes", type=float, default=8.0, help="minutes after which it ends by itself (default 8)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--output", default="results/devices", help="rows, samples and runs go to OUTPUT/DEVICE/")
    parser.add_argument(
        "--state", default="results/state/devices", help="folder of finished work, one folder per device"
    )
    parser.add_argument("--full", action="store_true", help="then also measure the full matrix, which takes hours")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int | None:
    """Measure this device within the minutes and write the rows."""
    return measure_device(request_of(MeasureDeviceRequest, arguments))


def measure_device(request: MeasureDeviceRequest) -> int | None:
    """Measure this device, or one part of it, and write the rows; see `Programme`."""
    import torch

    from repvgg_companion.machine.cpu import usable_cores
    from repvgg_companion.machine.device import choose_device, device_label
    from repvgg_companion.speed.device_work import MeasuredDevice

    began = time.monotonic() - process_age_s()
    kind = choose_device(request.device)
    torch.set_num_threads(usable_cores())
    label = device_label(kind)
    gc.collect()
    gc.freeze()  # what is imported stays; the collections between two networks need not look at it again
    device = MeasuredDevice(kind, label, usable_cores(), Path(request.state) / label)
    programme = Programme(request, device, began + 60 * request.minutes)
    return programme.run_child() if request.part else programme.run()


@dataclass
class Programme:
    """The parts of one device, measured until `end`, a moment of `time.monotonic`."""

    request: MeasureDeviceRequest
    device: "MeasuredDevice"
    end: float
    done: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """Why a part was not measured, by its name."""
    failed: str = ""
    """Why nothing more can be measured: a full disk, a lost device."""

    @property
    def parts(self) -> Sequence[DevicePart]:
        """All parts in order."""
        return parts_of(self.device.kind, full=self.request.full)

    @property
    def folder(self) -> Path:
        """The folder of this device's rows."""
        return Path(self.request.output) / self.device.device

    def run(self) -> int:
        """Measure all parts, write all rows, say what is left; returns the exit status.

        Raises Interrupted after a signal, CompanionError if nothing was measured or nothing more can be.
        """
        from repvgg_companion.speed.device_folder import require_own_tables

        require_own_tables(self.folder, self.device.device)
        self._tell_minutes()
        self._tell_busy()
        reserve_s = min(RESERVE_S, 0.1 * 60 * self.request.minutes)
        alarm = Alarm(self.end - reserve_s, min(GRACE_S, reserve_s / 3))
        try:
            try:
                with alarm:
                    self._measure()
            except Stopped:
                pass
            rows = self.write()
        finally:
            alarm.restore()
        return self._conclude(rows, alarm.reason)

    def run_child(self) -> int:
        """Measure one part in this process; the parent writes the rows."""
        from repvgg_companion.speed.device_work import work_on

        part = next(part for part in self.parts if part.name == self.request.part)
        alarm = Alarm(self.end)
        try:
            with alarm:
                work_on(part, self.device, Effort(self.end), start=self.request.start)
        except Stopped:
            raise Interrupted(f"the time of {part.name} is over; its finished groups are kept") from None
        finally:
            alarm.restore()
        return 0

    def _measure(self) -> None:
        for limited in (True, False):
            for part in self.parts:
                if part.name not in (*self.done, *self.problems) and not self.failed:
                    self._work(part, 0, limited=limited)
        for start in range(1, max(part.starts for part in self.parts)):
            for part in self.parts:
                if part.starts > start and part.name in self.done and not self.failed:
                    self._work(part, start, limited=False)

    def _work(self, part: DevicePart, start: int, *, limited: bool) -> None:
        """One part, or a later process start of it; a failure in it does not affect the other parts."""
        import torch

        from repvgg_companion.speed.device_work import is_complete, work_on

        until = self.end - RESERVE_S
        if limited:
            until = min(until, time.monotonic() + 60 * part.minutes)
        again = f", process start {start + 1} of {part.starts}" if start else ""
        _say(f"{part.name}{again}: {max(until - time.monotonic(), 0) / 60:.1f} min at most")
        try:
            if start and is_complete(part, self.device, start):
                return
            if (part.apart or start) and not is_complete(part, self.device, start):
                self._work_apart(part, start, until)
            else:
                work_on(part, self.device, Effort(until), start=start)
            self.done += [part.name] if not start else []
        except Interrupted as error:
            _say(f"{part.name}: {one_line(error)}")
        except CompanionError as error:
            self.problems[part.name] = one_line(error)
        except torch.AcceleratorError as error:
            self.failed = f"the device reported an error ({one_line(error)[:200]}); start again to go on"
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            self.failed = f"{error.filename or self.device.state}: {error.strerror}; free some space and start again"
        except Exception as error:
            traceback.print_exc()
            self.problems[part.name] = f"{type(error).__name__}: {one_line(error)}"
        if part.name in self.problems:
            _say(f"{part.name} is not measured: {self.problems[part.name]}")
        if not self.failed:
            self.write()

    def _work_apart(self, part: DevicePart, start: int, until: float) -> None:
        seconds = until - time.monotonic() - CHILD_RESERVE_S
        if seconds <= 0:
            raise Interrupted("no time is left for a process of its own")
        status = call_apart(self.request.child(part, start, seconds / 60), until)
        if status == 75:
            raise Interrupted("its time is over; what is finished is kept")
        if status:
            raise CompanionError(f"its process ended with status {status}; read its message above")

    def write(self) -> dict[str, int]:
        """Write the rows of all that is kept; returns their numbers by table, empty if there are none."""
        from repvgg_companion.speed.device_folder import DeviceRun
        from repvgg_companion.speed.device_work import collect

        found = [found for part in self.parts if (found := collect(part, self.device))]
        if not found:
            return {}
        kept = self.device.kept
        run_id = kept.found("run", {}) or new_run_id("measure-device")
        rows = DeviceRun(run_id, self.device, found).write(self.folder)
        kept.store("run", {}, run_id)
        return rows

    def _tell_minutes(self) -> None:
        """Say what all parts take where less is given, since nobody can know it."""
        given, whole = self.request.minutes, sum(part.minutes for part in self.parts)
        if given < whole:
            time_of_all = f"{whole:.0f} minutes" if whole < 120 else f"{whole / 60:.0f} hours"
            short = f"; in less than {SHORTEST} perhaps no group of networks is finished" if given < SHORTEST else ""
            _say(
                f"all parts once take up to {time_of_all} on a {'GPU' if self.device.kind == 'cuda' else 'CPU'}, "
                f"{given:g} are given{short}; the same command goes on where this one ends"
            )

    def _tell_busy(self) -> None:
        from repvgg_companion.machine.device import machine_state
        from repvgg_companion.machine.nvml import gpu_flags

        for flag in gpu_flags(machine_state(self.device.kind)):
            _say(f"the GPU is {flag}; it is measured anyway, and the rows say so")

    def _conclude(self, rows: dict[str, int], signalled: str) -> int:
        counted = ", ".join(f"{number} {table}" for table, number in rows.items())
        if rows:
            print(f"{self.folder}: {counted} rows of this run")
        left = [part.name for part in self.parts if part.name not in (*self.done, *self.problems)]
        again = f"left to measure: {', '.join(left)}; run the same command to go on" if left else "nothing is left"
        if self.failed:
            raise CompanionError(f"stopped, since {self.failed}; the rows of all that was measured are written")
        if signalled:
            raise Interrupted(f"stopped by {signalled}; the rows of all that was measured are written; {again}")
        if not rows and self.problems:
            raise CompanionError("; ".join(f"{name}: {reason}" for name, reason in self.problems.items()))
        if not rows:
            raise CompanionError(
                f"no group of the first part, {self.parts[0].name}, was finished in {self.request.minutes:g} minutes; "
                f"give more minutes, at least {SHORTEST} on a slow machine"
            )
        _say(again)
        return 1 if self.problems else 0


def call_apart(words: list[str], until: float) -> int:
    """Run a verb in a process of its own until it ends, or until the moment `until`; returns its exit status."""
    from repvgg_companion.speed.digits_training import end_process

    process = subprocess.Popen([sys.executable, "-m", "repvgg_companion", *words])
    try:
        return process.wait(max(until - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return 75
    finally:
        end_process(process)


def _say(text: str) -> None:
    print(f"measure-device: {text}", file=sys.stderr, flush=True)
