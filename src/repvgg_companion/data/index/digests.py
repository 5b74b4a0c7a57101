"""The published digests of the archives, and the record of which archives were compared with them.

The record is one JSON file, keyed by path, size and modification time: an archive is read for its digest only once
while these are unchanged.
"""

import os
from collections.abc import Callable
from pathlib import Path

from repvgg_companion.data.index.source import HashedSource
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json, read_sums, write_json

# MD5 by name: torchvision's datasets/imagenet.py (ARCHIVE_META); Tiny-ImageNet and CIFAR: the pages that publish them.
PUBLISHED_MD5 = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    "tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
SUMS_FILE = "MD5SUMS"


def expected_md5(path: str | os.PathLike) -> str | None:
    """The MD5 that an archive must have: from a file `MD5SUMS` beside it (the demo has one), else the published one."""
    path = Path(path)
    return (PUBLISHED_MD5 | read_sums(path.with_name(SUMS_FILE))).get(path.name)


class DigestRecord:
    """The digests computed so far, in one JSON file."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._records: dict[str, dict] = read_json(self.path) if self.path.exists() else {}
        if not (isinstance(self._records, dict) and all(isinstance(row, dict) for row in self._records.values())):
            raise CompanionError(f"{self.path} is not a record of digests; name another folder with --output")

    def known(self, archive: str | os.PathLike) -> str | None:
        """The MD5 of an archive, if it was computed while the archive had its present size and modification time."""
        archive = Path(archive).absolute()
        record = self._records.get(str(archive))
        try:
            status = archive.stat()
        except OSError:
            return None
        if record and (record.get("size"), record.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
            return record.get("md5")
        return None

    def keep(self, archive: str | os.PathLike, md5: str, stamp: tuple[int, int]) -> None:
        """Record the MD5 of an archive of this (size, modification time in ns)."""
        record = {"md5": md5, "size": stamp[0], "mtime_ns": stamp[1]}
        self._records[str(Path(archive).absolute())] = record
        write_json(self.path, self._records)


def require_match(archive: str | os.PathLike, md5: str, expected: str) -> None:
    """Raises CompanionError naming the file and both digests if they differ."""
    if md5 != expected:
        raise CompanionError(
            f"{archive} has MD5 {md5} instead of {expected}: it is damaged or another file; name an intact copy, "
            "or leave the check out with --no-verify (data.verify: false)"
        )


def md5_of(
    archive: str | os.PathLike, progress: Callable[[int], None] = lambda _count: None
) -> tuple[str, tuple[int, int]]:
    """The MD5 of a file and its stamp, in one sequential read; `progress` gets the number of bytes of each block."""
    source = HashedSource(archive, progress)
    try:
        source.finish()
    finally:
        source.close()
    return source.md5, source.stamp
