"""The splits of CIFAR-10 or CIFAR-100 from the official archive in its binary version, which holds no pickles.

A batch is a file of records: one byte with the label (two in CIFAR-100: superclass and class), then 3072 bytes, the
32 x 32 pixels of the red, the green and the blue channel. Images have no byte range that a decoder could read, so they
are copied once into tars as BMP, without loss.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from repvgg_companion.data.images import ImageColumns, emptied
from repvgg_companion.data.index.image_tar import ImageTar
from repvgg_companion.data.index.split import IndexJob, Split
from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.progress import Progress

if TYPE_CHECKING:
    import numpy as np

SIDE_PX = 32
PIXEL_BYTES = 3 * SIDE_PX * SIDE_PX


@dataclass(frozen=True)
class _Layout:
    """The files of one archive: class names in label order, and the batches of each split."""

    names: str
    batches: dict[str, tuple[str, ...]]
    label_bytes: int

    @property
    def record_bytes(self) -> int:
        """The length of one image with its labels."""
        return self.label_bytes + PIXEL_BYTES


LAYOUTS = (
    _Layout(
        "batches.meta.txt",
        {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "val": ("test_batch.bin",)},
        label_bytes=1,
    ),
    _Layout("fine_label_names.txt", {"train": ("train.bin",), "val": ("test.bin",)}, label_bytes=2),
)
"""CIFAR-10 and CIFAR-100."""


def from_cifar(path: str, job: IndexJob) -> dict[str, Split]:
    """The splits `train` and `val`; their images are copied into `job.output`/SPLIT.tar.

    Raises CompanionError for an archive that is damaged, incomplete or not CIFAR's.
    """
    if not Path(path).is_file():
        raise CompanionError(f"{path} does not exist or is not a file; name cifar-10-binary.tar.gz")
    job.opener.check(path)
    try:
        with tarfile.open(path) as archive:
            return _splits(_Archive(path, archive), job)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise CompanionError(f"{path} cannot be read as an archive ({one_line(error)}); name an intact copy") from None


class _Archive:
    """An open archive: its members by their plain name, and its layout."""

    def __init__(self, path: str, archive: tarfile.TarFile) -> None:
        self.path, self._archive = path, archive
        self._members = {PurePosixPath(member.name).name: member for member in archive.getmembers() if member.isfile()}
        found = next((layout for layout in LAYOUTS if layout.names in self._members), None)
        if found is None:
            pickled = "batches.meta" in self._members or "meta" in self._members
            what = "the Python version, whose pickles are not read" if pickled else "not CIFAR's binary version"
            raise CompanionError(f"{path} is {what}; name cifar-10-binary.tar.gz or cifar-100-binary.tar.gz")
        self.layout = found

    def read(self, name: str) -> bytes:
        """The content of a file of the archive."""
        if name not in self._members:
            raise CompanionError(f"{self.path} lacks {name}; name an intact copy")
        stream = self._archive.extractfile(self._members[name])
        assert stream is not None  # only files are members here
        with stream:
            return stream.read()

    def classes(self) -> list[str]:
        """The names of the classes in label order."""
        text = self.read(self.layout.names).decode("utf-8", "replace")
        return [line.strip() for line in text.splitlines() if line.strip()]

    def records(self, name: str, classes: list[str]) -> "np.ndarray":
        """The records of a batch, uint8 [images, bytes of a record], all with a label that has a name."""
        import numpy as np

        content, size = self.read(name), self.layout.record_bytes
        if not content or len(content) % size:
            raise CompanionError(
                f"{self.path}: {name} has {len(content)} bytes instead of a multiple of {size}; name an intact copy"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        labels = records[:, self.layout.label_bytes - 1]
        if (labels >= len(classes)).any():
            raise CompanionError(
                f"{self.path}: {name} has label {int(labels.max())}, but {self.layout.names} names {len(classes)} "
                "classes; name an intact copy"
            )
        return records


def _splits(archive: _Archive, job: IndexJob) -> dict[str, Split]:
    classes = archive.classes()
    job.known.ordered(classes, classes, classes)  # refuses before anything is copied
    return {name: _copied(archive, name, classes, job) for name in archive.layout.batches}


def _copied(archive: _Archive, split: str, classes: list[str], job: IndexJob) -> Split:
    """One split, copied into a tar with a folder for each class."""
    images: dict[str, ImageColumns] = {}
    batches = archive.layout.batches[split]
    with (
        ImageTar(job.output / f"{split}.tar", job.naming) as tar,
        Progress(f"copying {split} images", total=len(batches), unit="batches") as progress,
    ):
        for batch in batches:
            for name, label, content in _images(archive, batch, classes):
                images.setdefault(classes[label], ImageColumns()).append(*tar.add(classes[label], name, content))
            progress.advance()
    found = Split(stamps={tar.path: tar.stamp}, class_order=classes)
    found.add(emptied(images), archive.path)
    return found


def _images(archive: _Archive, batch: str, classes: list[str]) -> Iterator[tuple[str, int, bytes]]:
    """Name, label and BMP of every image of a batch."""
    from PIL import Image

    label_bytes = archive.layout.label_bytes
    for number, record in enumerate(archive.records(batch, classes)):
        pixels = record[label_bytes:].reshape(3, SIDE_PX, SIDE_PX).transpose(1, 2, 0)
        stream = io.BytesIO()
        Image.fromarray(pixels.copy()).save(stream, "BMP")
        yield f"{batch.removesuffix('.bin')}-{number:05d}.bmp", int(record[label_bytes - 1]), stream.getvalue()
