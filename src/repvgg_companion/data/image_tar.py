"""Images without byte ranges of their own (compressed, in Parquet, re-encoded) become one plain tar with class folders.

In: (WNID, name, bytes), one at a time. Out: a tar by rename, readable by any tool, and each image's place in it.
"""

import io
import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from repvgg_companion.data.members import Image
from repvgg_companion.files import atomic_path


class ImageTar:
    """Writes a tar at `final`; use it as a context manager, `add` images, and read `stamp` after it was left."""

    def __init__(self, final: str | os.PathLike) -> None:
        self.path = os.path.abspath(final)  # noqa: PTH100 - Path.resolve would follow links
        self.stamp = (0, 0)
        self._atomic = atomic_path(self.path)

    def __enter__(self) -> Self:
        self._tar = tarfile.open(self._atomic.__enter__(), "w", format=tarfile.GNU_FORMAT)
        return self

    def add(self, wnid: str, name: str, content: bytes) -> Image:
        """Append an image; returns its place under its final file name."""
        info = tarfile.TarInfo(f"{wnid}/{name}")
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return Image(name, self.path, self._tar.offset - padded, len(content))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._tar.close()
            else:
                self._tar.fileobj.close()
        except BaseException as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)
        if kind is not None:
            return
        status = Path(self.path).stat()
        self.stamp = (status.st_size, status.st_mtime_ns)
