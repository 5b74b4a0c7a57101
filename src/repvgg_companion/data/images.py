"""Where one image is (`Image`), and many of them in compact columns (`ImageColumns`): 48 bytes each, not 400."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple


class Image(NamedTuple):
    """One image: its path inside the archive or folder, and the bytes in a file that it consists of.

    A `file` that ends in "/" is a folder, and the image is the file in it named by the last part of `path`.
    """

    path: str
    file: str
    offset: int
    length: int


class ImageColumns:
    """Images one after the other, as columns; iterating gives `Image`s. Raises UnicodeEncodeError for odd paths."""

    __slots__ = ("codes", "files", "lengths", "offsets", "path_ends", "paths")

    def __init__(self, images: Iterable[Image | tuple[str, str, int, int]] = ()) -> None:
        self.paths, self.path_ends = bytearray(), array("q")
        self.files: dict[str, int] = {}
        self.codes, self.offsets, self.lengths = array("i"), array("q"), array("q")
        self.extend(images)

    def extend(self, images: Iterable[Image | tuple[str, str, int, int]]) -> None:
        """Add images."""
        images = list(images)
        encoded = [image[0].encode() for image in images]
        ends = accumulate(map(len, encoded), initial=len(self.paths))
        self.path_ends.extend(islice(ends, 1, None))
        self.paths += b"".join(encoded)
        numbers = {file: self._number(file) for file in dict.fromkeys(image[1] for image in images)}
        self.codes.extend([numbers[image[1]] for image in images])
        self.offsets.extend([image[2] for image in images])
        self.lengths.extend([image[3] for image in images])

    def append(self, path: str, file: str, offset: int, length: int) -> None:
        """Add an image."""
        self.paths += path.encode()
        self.path_ends.append(len(self.paths))
        self.codes.append(self._number(file))
        self.offsets.append(offset)
        self.lengths.append(length)

    def _number(self, file: str) -> int:
        return self.files.setdefault(file, len(self.files))

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Image]:
        files = list(self.files)
        for path, code, offset, length in zip(self.each_path(), self.codes, self.offsets, self.lengths):
            yield Image(path, files[code], offset, length)

    def each_path(self) -> Iterator[str]:
        """The paths alone."""
        start, text = 0, self.paths.decode() if self.paths.isascii() else None
        for end in self.path_ends:
            yield self.paths[start:end].decode() if text is None else text[start:end]
            start = end


@dataclass
class Tally:
    """How often something was found, and where first."""

    count: int = 0
    first: str = ""

    def add(self, text: str) -> None:
        """Count it once more."""
        self.first = self.first if self.count else text
        self.count += 1

    def __add__(self, later: "Tally") -> "Tally":
        return Tally(self.count + later.count, self.first if self.count else later.first)


Folders = dict[str, ImageColumns]
"""Images by the path of their folder, whose `path`s are the file names in it."""


def add_to_folder(folders: Folders, path: str, file: str, offset: int, length: int) -> None:
    """Put an image into its folder."""
    folder, _, name = path.rpartition("/")
    columns = folders.get(folder)
    if columns is None:
        columns = folders[folder] = ImageColumns()
    columns.append(name, file, offset, length)


def whole_paths(folders: Folders) -> Iterator[Image]:
    """All images, each with its folder in its path."""
    for folder, images in folders.items():
        for image in images:
            yield image._replace(path=f"{folder}/{image.path}") if folder else image


def emptied(classes: dict[str, ImageColumns]) -> Iterator[tuple[str, ImageColumns]]:
    """Yield each item of `classes` and remove it there, so that a caller who collects them holds none twice."""
    while classes:
        yield classes.popitem()


def by_own_folder(images: Iterable[Image]) -> Folders:
    """Images by their folder."""
    folders: Folders = {}
    for image in images:
        add_to_folder(folders, *image)
    return folders
