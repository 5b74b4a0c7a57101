"""Locks: a dead holder never blocks for ever, also on file systems without file locks."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_environment import clean_environment

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import NoFileLocksError, locked_file
from repvgg_companion.training.job import holder as holder_module
from repvgg_companion.training.job.launch import held_gpus
from repvgg_companion.training.job.state import StateFolder

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture(params=NO_LOCKS, ids=lambda number: errno.errorcode[number])
def no_locks(request, monkeypatch):
    """A file system whose locks fail with one of the errors that such file systems give."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(holder_module, "SETTLE_SECONDS", 0.01)


def claimed(folder: Path, *, silent_s: float, pid: int = 1, host: str = "node7") -> StateFolder:
    """A state folder whose holder showed its last heartbeat `silent_s` seconds ago, with the lock file it left."""
    folder.mkdir()
    holder = {"pid": pid, "host": host, "since": "2026-03-01T12:00:00+00:00", "slurm_job": None}
    (folder / "holder.json").write_text(json.dumps(holder))
    (folder / "heartbeat").write_text(f"1 500 {time.time() - silent_s:.1f} 2.3")
    (folder / "lock").write_text(f"{pid}\n{host}\n")
    return StateFolder(folder)


def test_without_locks_a_holder_that_was_silent_for_a_day_is_dead(no_locks, tmp_path, capsys):
    state = claimed(tmp_path / "state", silent_s=86400)
    assert not state.is_held()
    with state.locked():
        assert state.holder()["pid"] == os.getpid() and state.is_held()
    assert state.holder() is None
    said = capsys.readouterr().err
    assert "process 1 on node7 since 2026-03-01T12:00:00+00:00 counts as dead, silent for 86400 s" in said
    assert str(tmp_path / "state" / "lock") in said and said.count("\n") == 1


def test_without_locks_a_holder_that_was_heard_of_is_not_disturbed(no_locks, tmp_path):
    state = claimed(tmp_path / "state", silent_s=60)
    assert state.is_held()
    words = r"by process 1 on node7 .*lock is on a file system without file locks .* 60 s old, .* dead after 1800 s"
    with pytest.raises(CompanionError, match=words), state.locked():
        pass
    assert state.holder()["pid"] == 1


def test_without_locks_a_dead_process_of_this_host_frees_the_folder_at_once(no_locks, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    state = claimed(tmp_path / "state", silent_s=1, pid=process.pid, host=os.uname().nodename)
    with state.locked():
        assert state.holder()["pid"] == os.getpid()


def test_without_locks_one_of_two_that_start_at_once_gives_way(no_locks, tmp_path, monkeypatch):
    state = StateFolder(tmp_path / "state")
    other = {"pid": 1, "host": "node7", "since": "2026-03-01T12:00:00+00:00", "slurm_job": None}
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / "state" / "holder.json").write_text(json.dumps(other)))
    with pytest.raises(CompanionError, match="is being trained by process 1 on node7"), state.locked():
        pass
    assert state.holder() == other


def test_gpus_cannot_be_shared_without_locks(no_locks, tmp_path):
    words = "GPU-a.lock is on a file system without file locks .* set TMPDIR to a folder on a local disk"
    with pytest.raises(CompanionError, match=words), held_gpus(1, ["GPU-a"], tmp_path):
        pass


def test_weights_are_fetched_without_locks(no_locks, tmp_path, capsys):
    from repvgg_companion.weights.fetch import fetch

    (tmp_path / "repvgg_a0.rvgg_in1k.safetensors").write_bytes(b"weights")
    assert fetch("RepVGG-A0", tmp_path).read_bytes() == b"weights"
    assert "repvgg_a0.rvgg_in1k.safetensors" in (tmp_path / "SHA256SUMS").read_text()
    assert "without file locks" in capsys.readouterr().err


def test_other_errors_of_a_lock_are_passed_on(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), locked_file(tmp_path / "lock"):
        pass
    assert not issubclass(NoFileLocksError, OSError)


HOLD = """
import sys, time
from repvgg_companion.files import locked_file
with locked_file(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_excludes_others_until_its_process_dies(tmp_path):
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], env=clean_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError, match="is locked by another process"), locked_file(path):
        pass
    process.kill()
    process.wait()
    with locked_file(path, wait_s=10), pytest.raises(TimeoutError), locked_file(path):
        pass
    assert path.exists()


def test_a_lock_file_for_all_users_has_its_mode_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        with locked_file(tmp_path / "shared", mode=0o666), locked_file(tmp_path / "own"):
            pass
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("shared", "own")] == [0o666, 0o600]
