"""Files are whole or absent; digests do not depend on how a value was written down."""

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import (
    atomic_path,
    canonical_json,
    read_json,
    remove_partial,
    sha256_of_file,
    short_digest,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.csv"
    write_text(target, "old\n")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stopped")
    assert target.read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(CompanionError, match="the disk is full while writing"), atomic_path(tmp_path / "b.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "c.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "c.txt").stat().st_mode) == 0o640


def test_suffix_survives_in_the_temporary_name(tmp_path):
    with atomic_path(tmp_path / "d.parquet") as temporary:
        assert temporary.suffix == ".parquet"
        temporary.write_bytes(b"x")
    assert (tmp_path / "d.parquet").read_bytes() == b"x"


def test_what_a_library_writes_beside_its_file_goes_too(tmp_path):
    """safetensors writes `.tmpXXXXXX` beside the file it is told to write; a kill in that moment leaves it."""
    with atomic_path(tmp_path / "f.bin") as temporary:
        temporary.write_bytes(b"x")
        (temporary.parent / ".tmpAbCdEf").write_bytes(b"half")
    assert [path.name for path in tmp_path.iterdir()] == ["f.bin"]
    killed = f"""
import os, pathlib
from repvgg_companion.files import atomic_path
with atomic_path({str(tmp_path / "f.bin")!r}) as temporary:
    (temporary.parent / ".tmpAbCdEf").write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.rglob("f.bin"))[1:]
    remove_partial(tmp_path / "f.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["f.bin"]


def test_digest_ignores_key_order_and_integral_floats():
    assert short_digest({"a": 1, "b": [0.5, 2.0]}) == short_digest({"b": [0.5, 2], "a": 1.0})
    assert short_digest({"a": 1}) != short_digest({"a": 1.5})
    assert canonical_json({"b": True, "a": 1.0}) == '{"a":1,"b":true}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_sha256_and_damaged_json(tmp_path):
    (tmp_path / "e").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "e") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(CompanionError, match="not readable as JSON"):
        read_json(tmp_path / "e")
    with pytest.raises(CompanionError, match="does not exist"):
        read_json(tmp_path / "nothing")


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    assert main(["schema", "--log", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"schema: error: {tmp_path}: Is a directory; fix that and run again\n"
