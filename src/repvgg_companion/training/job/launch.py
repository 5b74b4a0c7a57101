"""Take GPUs of this machine for a training, and start its processes. Needs no torch.

On a machine without a scheduler several jobs share the GPUs: each job locks the ones it takes, and the operating system
frees the locks when a process dies. Under Slurm the scheduler grants them.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.files import NoFileLocksError, locked_file
from repvgg_companion.machine.nvml import visible_gpus
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.job.stop import listen_to_signals

LOCKS = "repvgg-companion-gpus"
POLL_SECONDS = 1.0
SHUTDOWN_SECONDS = 300
"""How long torchrun lets its processes write their last checkpoint."""
_LAUNCHERS_LOG = re.compile(r"[IWE]\d{4} [\d:.]+ \d+ torch/distributed/")
STOP_REASONS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "deadline", "signal to another process")


def under_torchrun() -> bool:
    """Whether this process was started by torchrun (or anything that sets the same variables)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def held_gpus(count: int, gpus: Sequence[str], folder: Path | None = None) -> Iterator[list[str]]:
    """Hold `count` of `gpus` that no other training of this machine holds; waits until this many are free.

    Raises CompanionError if there are fewer, or if `folder`, which has one lock file per GPU, cannot be locked. The
    operating system frees a lock when its process dies.
    """
    if count > len(gpus):
        raise CompanionError(
            f"{count} GPUs were asked for, but this machine shows {len(gpus)}; lower gpu in the experiment file, or "
            "check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    folder = folder or Path(tempfile.gettempdir()) / LOCKS
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):
            folder.chmod(0o1777)
    told = False
    while True:
        with contextlib.ExitStack() as stack:
            taken = _lock_gpus(count, gpus, folder, stack)
            if len(taken) == count:
                yield taken
                return
        if not told:
            print(f"train: waiting for {count} free GPUs of {len(gpus)}", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)


def _lock_gpus(count: int, gpus: Sequence[str], folder: Path, stack: contextlib.ExitStack) -> list[str]:
    """The first `count` free GPUs, or as many as are free, locked until `stack` is closed."""
    taken: list[str] = []
    for gpu in gpus:
        if len(taken) == count:
            break
        try:
            stack.enter_context(locked_file(folder / f"{gpu.replace('/', '-')}.lock", mode=0o666))
        except TimeoutError:
            continue
        except NoFileLocksError as error:
            raise CompanionError(f"{error}; set TMPDIR to a folder on a local disk, so that jobs share GPUs") from None
        taken.append(gpu)
    return taken


@contextlib.contextmanager
def granted_gpus(count: int) -> Iterator[None]:
    """Make exactly `count` GPUs visible to torch, which must not have been imported for CUDA work before.

    The GPUs that Slurm granted are taken as they are; without Slurm, free ones are locked as long as the context lasts.
    """
    if "SLURM_JOB_ID" in os.environ:
        granted = visible_gpus()
        if len(granted) < count:
            raise CompanionError(f"Slurm granted {len(granted)} GPUs, not {count}; ask for gpu={count} in the rule")
        yield
        return
    with held_gpus(count, visible_gpus()) as gpus:
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        try:
            yield
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def run_processes(count: int, arguments: Sequence[str], state: StateFolder) -> None:
    """Run the verb with `arguments` in `count` processes of this machine under torchrun, and wait for them.

    Raises Interrupted if they were stopped with their state saved, CompanionError if one failed.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"),
        *("-m", "repvgg_companion", *_without_log(arguments)),
    ]
    environment = os.environ | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS)}
    earlier = len(state.attempts())
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment)

    def forward(number: int, _: FrameType | None) -> None:
        # torchrun passes SIGTERM on to its processes; it does not survive a second signal.
        if not forwarded:
            forwarded.append(number)
            process.send_signal(signal.SIGTERM)

    forwarded: list[int] = []
    listen_to_signals(forward)
    assert process.stderr is not None
    launchers = _pass_on(process.stderr)
    if process.wait() == 0:
        return
    last = (state.attempts()[earlier:] or [{}])[-1]  # of this start only
    reason = last.get("reason", "")
    if reason in STOP_REASONS:
        raise Interrupted(f"stopped by {reason} after step {last['to_step']}; start the same command again to continue")
    for place, number in re.findall(r"rank +: (\d+)[^\n]*\n *exitcode +: -(\d+)", launchers):
        if int(number) != signal.SIGTERM:  # torchrun ends the others with SIGTERM
            raise CompanionError(
                f"process {place} (counted from 0) of {count} was ended by {signal.Signals(int(number)).name}; SIGKILL "
                "is often the system's, out of memory; start the same command again to continue"
            )
    raise CompanionError(
        last.get("message")
        or f"one of the {count} processes died; read its message above, then start the same command again to continue"
    )


def _pass_on(stream: Iterable[str]) -> str:
    """Write the messages of the processes to standard error; returns torchrun's own traceback, if any."""
    held: list[str] = []
    for line in stream:
        if held or line.startswith("Traceback "):
            held.append(line)
            if len(held) >= 8 and not _is_launchers(held):
                sys.stderr.write("".join(held))
                held = []
        elif not _LAUNCHERS_LOG.match(line):
            sys.stderr.write(line)
    if _is_launchers(held):
        return "".join(held)
    sys.stderr.write("".join(held))
    return ""


def _is_launchers(traceback: list[str]) -> bool:
    return any("torch/distributed/run.py" in line for line in traceback[:8])


def _without_log(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--log FILE`: the messages of the processes come through this one's standard error."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith("--log="):
            skip = False
        elif argument == "--log":
            skip = True
        else:
            kept.append(argument)
    return kept
