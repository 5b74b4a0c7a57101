"""The images of a folder tree: path and size of each file; links are followed."""

import os
import stat
from pathlib import Path

from repvgg_companion.data.images import Folders, add_to_folder
from repvgg_companion.data.index.findings import Findings
from repvgg_companion.data.index.links import around, no_image
from repvgg_companion.data.index.source import require_folder
from repvgg_companion.errors import CompanionError
from repvgg_companion.progress import Progress

IMAGES_AT_ONCE = 1000


def images_of_folder(root: str | Path, findings: Findings) -> Folders:
    """The images under a folder; `findings.folders` then holds all folders.

    Raises CompanionError if the folder does not exist, holds a name that is not UTF-8, a file that cannot be read,
    or a link to a folder around it.
    """
    top = Path(require_folder(root))
    scan = _Scan(findings, str(root))
    entries = _sorted_entries(str(top))
    # The total is the number of entries at the top: class folders, or images of a flat folder.
    with Progress(f"index of {top.name}", total=len(entries), unit="entries") as scan.progress:
        for entry in entries:
            scan.entry(entry, "", str(top), (os.path.realpath(top),))
            scan.show(1)
    return scan.folders


class _Scan:
    """The walk over a folder tree; `folders` is what it found."""

    progress: Progress

    def __init__(self, findings: Findings, root: str) -> None:
        self.folders: Folders = {}
        self.findings, self.root, self.images = findings, root, 0

    def show(self, entries: int) -> None:
        self.progress.note(f"{self.images:,} images")
        self.progress.advance(entries)

    def entry(self, entry: os.DirEntry, path: str, parent: str, above: tuple[str, ...]) -> None:
        """Take one entry of the folder `parent`; `path` is that folder below the top, `above` the real folders."""
        inner = f"{path}/{entry.name}" if path else entry.name
        try:
            if entry.is_dir():
                if self.findings.enters(inner):
                    self._folder(entry, inner, above)
            elif self.findings.takes(inner):
                self._image(entry, inner, parent)
        except UnicodeEncodeError:
            raise CompanionError(f"{entry.path!r} is a name that is not UTF-8; rename it") from None

    def _image(self, entry: os.DirEntry, inner: str, parent: str) -> None:
        try:
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink():
                target = os.path.normpath(os.path.join(os.path.dirname(inner), os.readlink(entry.path)))  # noqa: PTH115, PTH118, PTH120
                raise CompanionError(no_image(self.root, inner, target)) from None
            raise CompanionError(f"{entry.path} cannot be read: {error.strerror}; check its permissions") from None
        if stat.S_ISREG(status.st_mode):
            inner.encode()
            add_to_folder(self.folders, inner, f"{parent}/", 0, status.st_size)
        self.images += 1
        if self.images % IMAGES_AT_ONCE == 0:  # one folder may hold all of them
            self.show(0)

    def _folder(self, entry: os.DirEntry, path: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(entry.path)
        if real in above:
            raise CompanionError(around(self.root, path))
        self.findings.see(path)
        for inner in _sorted_entries(entry.path):
            self.entry(inner, path, entry.path, (*above, real))


def _sorted_entries(folder: str) -> list[os.DirEntry]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
