"""Reading the bytes of single images, from archives or from files of their own. Needs no torch."""

import contextlib
import os

from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError

INDEX_AGAIN = "index the data again (the same command with --forcerun index, or make ARGS='--forcerun index')"


class ImageReader:
    """Reads images by `pread`, which moves no file position: threads and forked workers share one descriptor per file.

    An archive stays open from its first use (open it before workers fork to share it); the files of a folder tree are
    opened one by one. Pickling drops the descriptors.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._descriptors: dict[str, int] = {}

    def open(self) -> "ImageReader":
        """Open every archive of the manifest; raises CompanionError if one is missing or was replaced."""
        for file in self.manifest.stamps:
            self._descriptor(file)
        return self

    def read(self, index: int) -> bytes:
        """The bytes of image `index`; raises CompanionError if they are not those that were indexed."""
        manifest = self.manifest
        file, offset, length = manifest.files[index], int(manifest.offsets[index]), int(manifest.lengths[index])
        try:
            if file in manifest.stamps:
                data = os.pread(self._descriptor(file), length, offset)
            else:
                data = self._whole_file(file, offset, length)
        except OSError as error:
            raise CompanionError(
                f"{manifest.where(index)} cannot be read ({error.strerror}); check the disk that holds it"
            ) from None
        if len(data) != length:
            raise CompanionError(f"{manifest.where(index)} has changed since it was indexed; {INDEX_AGAIN}")
        return data

    def _descriptor(self, file: str) -> int:
        descriptor = self._descriptors.get(file)
        if descriptor is None:
            stamp = self.manifest.stamps[file]
            descriptor = self._open(located(self.manifest, file))
            try:
                _require_stamp(file, os.fstat(descriptor), stamp)
            except CompanionError:
                os.close(descriptor)
                raise
            self._descriptors[file] = descriptor
        return descriptor

    def _open(self, file: str) -> int:
        try:
            return os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            todo = self.manifest.origin.moved(self.manifest.path)
            raise CompanionError(f"{file} cannot be opened ({error.strerror}); {todo}") from None

    def _whole_file(self, file: str, offset: int, length: int) -> bytes:
        descriptor = self._open(located(self.manifest, file))
        try:
            # One byte more than expected, so that a file that grew is noticed as well.
            return os.pread(descriptor, length + 1, offset)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close all descriptors; the reader opens them again when needed."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __getstate__(self) -> dict:
        return {"manifest": self.manifest, "_descriptors": {}}

    def __del__(self) -> None:
        self.close()


def located(manifest: Manifest, file: str) -> str:
    """Where a file of the manifest is now: a folder that was moved or mounted elsewhere is found if it is the same."""
    return manifest.origin.found(file, manifest.path, manifest.stamps.get(file))


def require_unchanged(manifest: Manifest) -> None:
    """Raises CompanionError if an archive was replaced since it was indexed; a missing one is not an error here."""
    for file, stamp in manifest.stamps.items():
        with contextlib.suppress(OSError):
            _require_stamp(file, os.stat(located(manifest, file)), stamp)  # noqa: PTH116


def _require_stamp(file: str, status: os.stat_result, stamp: tuple[int, int]) -> None:
    if (status.st_size, status.st_mtime_ns) != tuple(stamp):
        raise CompanionError(
            f"{file} was replaced or changed since it was indexed (size or modification time differ); {INDEX_AGAIN}"
        )
