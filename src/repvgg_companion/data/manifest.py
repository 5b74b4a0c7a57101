"""A split's index as a Parquet file: each image's file, byte offset, length, label, WNID and name. Needs no torch."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from repvgg_companion.data.columns import (
    ROW_GROUP,
    FileColumn,
    TextColumn,
    coded_array,
    int64_array,
    number_array,
    one_array,
    text_array,
)
from repvgg_companion.data.images import ImageColumns, Tally
from repvgg_companion.data.label_order import order_of
from repvgg_companion.data.origin import Origin
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path

METADATA_KEY = b"repvgg_companion"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The images of one split, sorted by label, then by name.

    `offsets` and `lengths` are int64 [n] in bytes, `labels` int64 [n]; `files`, `wnids`, `names` are n strings.
    `classes` are the WNIDs in label order (a class may have no image in this split), `class_names` their words.
    `stamps` holds size in bytes and modification time in ns of every archive; a single image file has no stamp.
    `packed` is the label of a packed copy, empty for the images themselves; `source_sha256` is the digest of the
    manifest that a packed copy was made of. `maps`, for segmentation only, lists the label map of each image in the
    same order, a PNG of label ids; the label of such an image is its map, and `labels` holds 0. `label_order` says how
    the classes got their numbers, one of `LABEL_ORDERS`, `origin` where the images were found.
    """

    files: TextColumn
    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    names: TextColumn
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    sha256: str
    stamps: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    packed: str = ""
    source_sha256: str = ""
    path: str = ""
    maps: "Manifest | None" = None
    label_order: str = "names"
    origin: Origin = field(default_factory=Origin)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes of the dataset, which all its splits share."""
        return len(self.classes)

    @cached_property
    def wnids(self) -> TextColumn:
        """The WNID of each image."""
        return TextColumn(coded_array(self.labels, self.classes))

    def where(self, index: int) -> str:
        """Image `index` in words: file, name and byte offset; for messages."""
        file, name, offset = self.files[index], self.names[index], int(self.offsets[index])
        return f"{file}, image {name} at byte {offset}" if file in self.stamps else file

    def with_maps(self, maps: "Manifest") -> "Manifest":
        """These images with their label maps, whose digest then covers both; raises ValueError for another order."""
        if self.names[:] != maps.names[:]:
            raise ValueError("images and label maps do not have the same names in the same order")
        digest = hashlib.sha256(f"{self.sha256}\n{maps.sha256}".encode()).hexdigest()
        return replace(self, maps=maps, sha256=digest)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Manifest":
        """Read a manifest; raises CompanionError if the file is missing, damaged or not one of ours."""
        import pyarrow
        from pyarrow import parquet

        try:
            # read_table would import pyarrow.dataset and pandas.
            with parquet.ParquetFile(path, page_checksum_verification=True) as stream:
                table = stream.read()
            facts = json.loads(table.schema.metadata[METADATA_KEY])
            if facts["version"] != VERSION:
                raise KeyError("version")
            own = cls(
                files=TextColumn(one_array(table.column("file"))),
                offsets=int64_array(table.column("offset")),
                lengths=int64_array(table.column("length")),
                labels=int64_array(table.column("label")),
                names=TextColumn(one_array(table.column("name"))),
                classes=tuple(facts["wnids"]),
                class_names=tuple(facts["class_names"]),
                sha256=facts["sha256"],
                stamps={name: tuple(stamp) for name, stamp in facts["stamps"].items()},
                packed=facts["packed"],
                source_sha256=facts["source_sha256"],
                path=str(path),
                label_order=facts.get("label_order") or order_of(facts["wnids"]),  # absent in older manifests
                origin=Origin(tuple(facts.get("options", ())), facts.get("places", {})),
            )
            if "maps_sha256" not in facts:
                return own
            maps = {name: table.column(f"map_{name}") for name in ("file", "offset", "length")}
            label_maps = replace(
                own,
                files=TextColumn(one_array(maps["file"])),
                offsets=int64_array(maps["offset"]),
                lengths=int64_array(maps["length"]),
                sha256=facts["maps_sha256"],
                stamps={},
            )
            return replace(own, maps=label_maps)
        except FileNotFoundError:
            raise CompanionError(f"manifest {path} does not exist; make it with the verb index") from None
        except (pyarrow.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            raise CompanionError(
                f"{path} is not readable as a manifest ({type(error).__name__}); index the data again"
            ) from None

    def write(self, path: str | os.PathLike, *, flush: bool = False) -> None:
        """Write the manifest as Parquet by rename; the same images at the same places give the same bytes.

        `flush` is for a manifest that took long to make: an index is made again in seconds, and reading checks it.
        """
        with atomic_path(path, flush=flush) as temporary:
            self.write_parquet(temporary)

    def write_parquet(self, path: str | os.PathLike) -> None:
        """Write the manifest straight to `path`, which the caller renames."""
        import pyarrow
        from pyarrow import parquet

        facts = {
            "version": VERSION,
            "sha256": self.sha256,
            "wnids": self.classes,
            "class_names": self.class_names,
            "stamps": self.stamps,
            "packed": self.packed,
            "source_sha256": self.source_sha256,
            "label_order": self.label_order,
            "options": self.origin.options,
            "places": self.origin.places,
        }
        if self.maps is not None:
            facts["maps_sha256"] = self.maps.sha256
        schema, writer = None, None
        try:
            # A row group at a time, since the paths of a folder tree are put together here and are many.
            for start in range(0, max(1, len(self)), ROW_GROUP):
                columns = self._arrow_columns(start, min(start + ROW_GROUP, len(self)))
                table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
                if writer is None:
                    schema = table.schema.with_metadata({METADATA_KEY: json.dumps(facts, sort_keys=True)})
                    writer = parquet.ParquetWriter(
                        path, schema, compression="zstd", use_dictionary=["file", "wnid"], write_page_checksum=True
                    )
                writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
        finally:
            if writer is not None:
                writer.close()

    def _arrow_columns(self, start: int, stop: int) -> dict[str, Any]:
        columns = {
            "file": self.files.arrow_slice(start, stop),
            "offset": number_array(self.offsets[start:stop]),
            "length": number_array(self.lengths[start:stop]),
            "label": number_array(self.labels[start:stop]),
            "wnid": coded_array(self.labels[start:stop], self.classes),
            "name": self.names.arrow_slice(start, stop),
        }
        if self.maps is not None:
            columns |= {
                "map_file": self.maps.files.arrow_slice(start, stop),
                "map_offset": number_array(self.maps.offsets[start:stop]),
                "map_length": number_array(self.maps.lengths[start:stop]),
            }
        return columns


def dataset_sha256(*manifests: Manifest) -> str:
    """The identity of a dataset: the digest over its splits' digests, in the order train, validation.

    A packed copy counts as the images that it was made of: it is a recipe's way to read them, and the recipe says so.
    """
    digests = (manifest.source_sha256 or manifest.sha256 for manifest in manifests)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


class ManifestBuilder:
    """Collects images class by class in compact columns: 1.3 million of them take about 60 MB."""

    def __init__(self) -> None:
        self._classes: dict[str, ImageColumns] = {}
        self.duplicates = Tally()

    @property
    def classes(self) -> list[str]:
        """The WNIDs seen so far, sorted."""
        return sorted(self._classes)

    def __contains__(self, wnid: str) -> bool:
        return wnid in self._classes

    def __len__(self) -> int:
        return sum(map(len, self._classes.values()))

    def add_class(self, wnid: str, images: Iterable[tuple[str, str, int, int]]) -> None:
        """Add images of one class as (name, file, offset, length) in the order of the archive.

        A file that ends in "/" is the folder of a file with the last part of the name. Of images with one name the
        last stays, as when an archive is extracted; their names go to `duplicates`. A class that was added before is
        replaced.
        """
        images = list(images)
        last = {image[0]: image for image in images}
        if len(last) != len(images):
            seen: set[str] = set()
            for name, *_ in images:
                if name in seen:
                    self.duplicates.add(f"{wnid}/{name}")
                seen.add(name)
        ordered = sorted(last, key=_folder_then_name if any("/" in name for name in last) else None)
        self._classes[wnid] = ImageColumns(last[name] for name in ordered)

    def keep(self, chosen: Sequence[str]) -> None:
        """Forget the images of all other classes."""
        self._classes = {wnid: images for wnid, images in self._classes.items() if wnid in chosen}

    def rename(self, name_of: Callable[[str], str]) -> None:
        """Give each class another name."""
        self._classes = {name_of(wnid): images for wnid, images in self._classes.items()}

    def build(self, classes: Sequence[str], class_names: Sequence[str]) -> Manifest:
        """The manifest of all images added, with labels from the place of their WNID in `classes`.

        The caller sets the other fields by `dataclasses.replace`. The builder is empty afterwards, so that no image
        is held twice.
        """
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        n, names, digest = len(self), bytearray(), hashlib.sha256()
        codes, name_ends = np.empty(n, np.int32), np.zeros(n + 1, np.int64)
        offsets, lengths, labels = (np.empty(n, np.int64) for _ in range(3))
        files: dict[str, int] = {}
        start = 0
        for wnid in sorted(self._classes, key=label_of.__getitem__):
            columns, label = self._classes.pop(wnid), label_of[wnid]
            stop = start + len(columns)
            name_ends[start + 1 : stop + 1] = columns.path_ends
            name_ends[start + 1 : stop + 1] += len(names)
            names += columns.paths
            numbers = np.array([files.setdefault(file, len(files)) for file in columns.files], np.int32)
            codes[start:stop] = numbers[np.frombuffer(columns.codes, np.int32)]
            offsets[start:stop], lengths[start:stop], labels[start:stop] = columns.offsets, columns.lengths, label
            digest.update("".join(_identity_lines(columns, wnid, label)).encode())
            start = stop
        name_column = TextColumn(text_array(names, name_ends))
        in_folders = any(file.endswith("/") for file in files)
        return Manifest(
            files=FileColumn(codes, list(files), name_column)
            if in_folders
            else TextColumn(coded_array(codes, list(files))),
            offsets=offsets,
            lengths=lengths,
            labels=labels,
            names=name_column,
            classes=tuple(classes),
            class_names=tuple(class_names),
            sha256=digest.hexdigest(),
            label_order=order_of(classes),
        )


def _identity_lines(columns: ImageColumns, wnid: str, label: int) -> Iterator[str]:
    """What the manifest's digest covers: name, label, WNID and length, but neither archive nor offset."""
    tail = f"\t{label}\t{wnid}\t"
    for name, length in zip(columns.each_path(), columns.lengths):
        yield f"{name}{tail}{length}\n"


def _folder_then_name(name: str) -> tuple[str, str]:
    # The order of torchvision's ImageFolder, which sorts the folders first and then the files of each.
    folder, _, base = name.rpartition("/")
    return folder, base
