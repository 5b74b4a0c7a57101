"""The bytes of an archive, read either by seeking or in one sequential pass that also computes the MD5.

Offsets rise from call to call. Both kinds of source know the file's stamp; `HashedSource` also gives its digest.
"""

import hashlib
import os
import queue
import stat
import threading
from collections.abc import Callable

from repvgg_companion.errors import CompanionError

BLOCK_BYTES = 1 << 22
ZIP, PARQUET = b"PK\x03\x04", b"PAR1"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

TAR_WAY = (
    "extract it and name the folders; only the tars of ILSVRC2012 are named as they are, with --train-archive and "
    "--val-archive (data.train_archive, data.val_archive)"
)
"""What to do with a tar that stands in the place of a folder or a zip."""


def compression_of(head: bytes) -> str | None:
    """The compression that the first bytes of a file announce, or None."""
    return next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)


def option_for(head: bytes, name: str = "") -> str:
    """Which option takes a file of another form, known by its first bytes (a tar by its name too); empty if none."""
    if way := option_for_cifar(name):
        return way
    if head.startswith(ZIP):
        return "name a zip with --zip (data.zip)"
    if head.startswith(PARQUET):
        return "name the folder of all Parquet shards with --parquet-folder (data.parquet_folder)"
    if name.lower().endswith((".tar", *(f".tar{end}" for end in (".gz", ".bz2", ".xz", ".zst")), ".tgz")):
        return TAR_WAY
    return ""


def option_for_cifar(path: str) -> str:
    """Which option takes an archive named like CIFAR's; empty for any other."""
    named = "cifar" in os.path.basename(path).lower()  # noqa: PTH119 - as below
    return "name CIFAR's binary version with --cifar-archive (data.cifar_archive)" if named else ""


def require_folder(path: str | os.PathLike) -> str:
    """The absolute path of a folder; raises CompanionError if there is none, or a file of another form."""
    if os.path.isfile(path):  # noqa: PTH113 - as below
        with open(path, "rb") as stream:  # noqa: PTH123
            way = option_for(stream.read(4), os.fspath(path)) or "name the folder that holds the images"
        raise CompanionError(f"{path} is a file instead of a folder; {way}")
    if not os.path.isdir(path):  # noqa: PTH112
        raise CompanionError(f"folder {path} does not exist")
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


class SeekSource:
    """Reads what is asked for and nothing else; a cold file then costs one page for each header."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
        try:
            status = os.stat(self.path)  # noqa: PTH116 - before opening, which would block forever on a named pipe
            if not stat.S_ISREG(status.st_mode):
                what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
                raise CompanionError(f"{path} is {what} instead of an archive; name the archive's file")
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise CompanionError(f"{path} cannot be opened: {error.strerror}") from None
        status = os.fstat(self._descriptor)
        self.size, self.stamp = status.st_size, (status.st_size, status.st_mtime_ns)
        if hasattr(os, "posix_fadvise"):
            # Otherwise the kernel reads ahead 128 KB at each header, which is nearly the whole of ImageNet.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only at the end of the file."""
        return os.pread(self._descriptor, count, offset)

    def reached(self, offset: int) -> None:
        """Note that everything before `offset` is indexed; for progress."""

    def finish(self) -> None:
        """Check that the file did not change while it was read, and close it."""
        status = os.fstat(self._descriptor)
        self.close()
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            raise CompanionError(f"{self.path} changed while it was read; wait until it is complete and run again")

    def close(self) -> None:
        """Close the file without a check."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class HashedSource(SeekSource):
    """Reads the whole file once, in order, and hands out the requested bytes as it goes.

    A reader thread and a hashing thread work beside the caller, so that the pass takes as long as the slower of disk
    and MD5. `progress` is called with the number of bytes of each block.
    """

    def __init__(self, path: str | os.PathLike, progress: Callable[[int], None] = lambda _count: None) -> None:
        super().__init__(path)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self.md5 = ""
        self._digest, self._progress = hashlib.md5(usedforsecurity=False), progress
        self._start, self._block = 0, b""
        self._blocks: queue.Queue = queue.Queue(maxsize=4)
        self._to_hash: queue.Queue = queue.Queue(maxsize=4)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read_all, self._hash_all)]
        for thread in self._threads:
            thread.start()

    def _read_all(self) -> None:
        offset = 0
        while offset < self.size and not self._stop.is_set():
            try:
                block: bytes | OSError = os.pread(self._descriptor, BLOCK_BYTES, offset)
            except OSError as error:
                block = error
            _put(self._blocks, block, self._stop)
            if isinstance(block, OSError) or not block:
                return
            offset += len(block)

    def _hash_all(self) -> None:
        while (block := self._to_hash.get()) is not None:
            self._digest.update(block)

    def _next_block(self) -> bool:
        self._start += len(self._block)
        if self._start >= self.size:
            self._block = b""
            return False
        block = self._blocks.get()
        if isinstance(block, OSError):
            raise CompanionError(f"{self.path} cannot be read at byte {self._start}: {block.strerror}")
        if not block:
            raise CompanionError(f"{self.path} became shorter while it was read; wait until it is complete")
        self._block = block
        self._to_hash.put(block)
        self._progress(len(block))
        return True

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`, which must not be before the block that the last call ended in."""
        parts: list[bytes] = []
        while count:
            while offset >= self._start + len(self._block):
                if not self._next_block():
                    return b"".join(parts)
            at = offset - self._start
            if at < 0:
                raise ValueError(f"offset {offset} lies before the current block")
            part = self._block[at : at + count]
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def finish(self) -> None:
        """Read the rest, set `md5`, check that the file did not change, and close it."""
        while self._next_block():
            pass
        self._to_hash.put(None)
        self._threads[1].join()
        self.md5 = self._digest.hexdigest()
        super().finish()

    def close(self) -> None:
        """Stop the threads and close the file."""
        self._stop.set()
        if self._threads[1].is_alive():
            self._to_hash.put(None)
        for thread in self._threads:
            thread.join()
        super().close()


def _put(target: queue.Queue, item: object, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            target.put(item, timeout=0.2)
            return
        except queue.Full:
            continue
