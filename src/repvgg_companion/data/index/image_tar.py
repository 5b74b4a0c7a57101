"""A plain tar with class folders, for images without byte ranges: compressed, in Parquet, or re-encoded."""

import io
import os
import tarfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from repvgg_companion.data.images import Image
from repvgg_companion.files import atomic_path, remove_partial


class ImageTar:
    """Writes a tar for the name `final`; use it as a context manager, `add` images, and read `stamp` after it was left.

    The tar gets its name when `naming` ends without an error, otherwise it is removed: so an error of the caller can
    still discard it. Until then a tar of that name from an earlier run stays.
    """

    def __init__(self, final: str | os.PathLike, naming: ExitStack) -> None:
        self.path = os.path.abspath(final)  # noqa: PTH100 - Path.resolve would follow links
        self.stamp = (0, 0)
        remove_partial(self.path)  # a killed run may have left much behind
        self._temporary: Path = naming.enter_context(atomic_path(self.path, flush=False))

    def __enter__(self) -> Self:
        self._tar = tarfile.open(self._temporary, "w", format=tarfile.GNU_FORMAT)
        return self

    def add(self, wnid: str, name: str, content: bytes) -> Image:
        """Append an image; returns its place under its final file name."""
        info = tarfile.TarInfo(f"{wnid}/{name}")
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        self._tar.members.clear()  # type: ignore[attr-defined]  # kept by tarfile for readers: 1 KB for each of a million images
        padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return Image(name, self.path, self._tar.offset - padded, len(content))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._tar.fileobj.close()
            return
        self._tar.close()
        with self._temporary.open("rb") as stream:
            os.fsync(stream.fileno())
            status = os.fstat(stream.fileno())
        self.stamp = (status.st_size, status.st_mtime_ns)
