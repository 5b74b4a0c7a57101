"""Files that are either whole or absent, and digests of what is in them."""

import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError

READ_BYTES = 1 << 20
OPEN_FILES = 4096
"""A process should be able to open this many files: batches that loaders hand over count as open files."""
LOCK_POLL_SECONDS = 0.1
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_LOCKED = (errno.EACCES, errno.EAGAIN)


class NoFileLocksError(CompanionError):
    """The file system of a path has no file locks; the sentence names the path."""


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike, *, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path of the same suffix; on success it is flushed to disk and renamed, on any failure removed.

    It lies in a hidden folder beside `final`, removed with all that is in it: some libraries (safetensors) write a
    temporary file of their own beside the one that they write. Missing folders are created. `flush=False` leaves the
    flushing to the system: for files that are made again in seconds and whose reader notices damage, since a power cut
    within some seconds may damage them.
    """
    final = Path(final)
    if final.is_dir():
        raise CompanionError(f"{final} is a folder, but a file is to be written there; rename the folder")
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
    temporary = folder / f".partial{final.suffix}"  # a name that no search for `final` or for visible files finds
    try:
        yield temporary
        if flush:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(final)
        if flush:
            sync_folder(final.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CompanionError(f"the disk is full while writing {final}; free some space and run again") from error
        if error.errno == errno.EFBIG:
            raise CompanionError(
                f"{final} cannot be written: it is larger than a file may be here (ulimit -f); nothing was kept of it"
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_partial(final: str | os.PathLike) -> None:
    """Remove what a killed process left of `final` in `atomic_path`; only where nobody else writes that file."""
    final = Path(final)
    for folder in final.parent.glob(f".{glob.escape(final.name)}.*.partial"):
        shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: str | os.PathLike) -> None:
    """Flush a folder's entries to disk, so that a rename in it outlives a power loss; some file systems cannot."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_file(path: str | os.PathLike, *, wait_s: float = 0.0, mode: int | None = None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is created if missing (with `mode`, if given) and stays.

    Waits up to `wait_s` seconds; raises TimeoutError if another process still holds it, NoFileLocksError if the file
    system has no locks. The system frees the lock when this process and all that it forked have ended. Used instead of
    a lock library because those fall back to a file that nobody removes when its owner dies.
    """
    handle = _open_lock(path, mode)
    end = time.monotonic() + wait_s
    try:
        while not _try_lock(handle, path):
            if time.monotonic() >= end:
                raise TimeoutError(f"{path} is locked by another process")
            time.sleep(LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: a forked process may have it open
    finally:
        os.close(handle)


def _open_lock(path: str | os.PathLike, mode: int | None) -> int:
    try:
        return os.open(path, os.O_RDWR)  # not O_CREAT: a sticky folder refuses that for the file of another user
    except FileNotFoundError:
        pass
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, os.O_RDWR)
    if mode is not None:
        os.fchmod(handle, mode)  # whatever the umask
    return handle


def _try_lock(handle: int, path: str | os.PathLike) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        if error.errno in _NO_LOCKS:
            raise NoFileLocksError(f"{path} is on a file system without file locks ({error.strerror})") from None
        raise
    return True


def write_text(final: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text with LF line ends to `final`, by rename."""
    with atomic_path(final) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def json_text(value: Any) -> str:
    """`value` as indented JSON with sorted keys, for files that people read."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_json(final: str | os.PathLike, value: Any) -> None:
    """Write `value` as `json_text` to `final`, by rename."""
    write_text(final, json_text(value))


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; raises CompanionError naming the file if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CompanionError(f"{path} is not readable as JSON ({error}); move it away and run again") from None


def sha256_of_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_sums(path: str | os.PathLike) -> dict[str, str]:
    """Digests by file name from a file as `sha256sum` or `md5sum` writes it; empty where there is none."""
    digests = {}
    if Path(path).is_file():
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            digest, _, name = line.strip().partition(" ")
            if name:
                digests[name.strip().lstrip("*")] = digest.lower()
    return digests


def canonical_json(value: Any) -> str:
    """One text for one value: keys sorted, no white space, and 1.0 written as 1."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def short_digest(value: Any) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of cells, the first of them the column names, as CSV with LF; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_csv(path: str | Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file, and its rows as text, each with the line of the file on which it ends.

    Raises CompanionError with file and line if the file is empty, is not UTF-8, names a column twice, or has a row
    with more or fewer cells than columns; FileNotFoundError where it is missing.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CompanionError(f"{path} line {line}: it is not UTF-8 text; save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise CompanionError(f"{path} line {reader.line_num}: it is not CSV ({error})") from None
    if not lines:
        raise CompanionError(f"{path} line 1: the file is empty; it needs a line of column names")
    header = lines[0][1]
    if twice := [name for place, name in enumerate(header) if name in header[:place]]:
        raise CompanionError(f"{path} line 1: the column {twice[0]!r} is there twice; keep one of them")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise CompanionError(
                f"{path} line {line}: it has {len(cells)} cells instead of {len(header)}; is it cut off?"
            )
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]
