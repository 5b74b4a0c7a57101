"""A split's index as a Parquet file: each image's file, byte offset, length, label, WNID and name. Needs no torch.

In: images of whole classes (`ManifestBuilder`), or a Parquet file. Out: a `Manifest`, its digest, the file.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path

METADATA_KEY = b"repvgg_companion"
VERSION = 1
ROW_GROUP = 1 << 16


class TextColumn(Sequence):
    """A column of strings that stays in Arrow's compact form; indexing gives a `str`, iterating gives all of them."""

    def __init__(self, values: Any) -> None:
        self.arrow = values

    def __len__(self) -> int:
        return len(self.arrow)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.arrow[index].to_pylist()
        return self.arrow[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.arrow), ROW_GROUP):
            yield from self.arrow.slice(start, ROW_GROUP).to_pylist()


@dataclass(frozen=True)
class Manifest:
    """The images of one split, sorted by label, then by name.

    `offsets` and `lengths` are int64 [n] in bytes, `labels` int64 [n]; `files`, `wnids`, `names` are n strings.
    `classes` are the WNIDs in label order (a class may have no image in this split), `class_names` their words.
    `stamps` holds size in bytes and modification time in ns of every archive; a single image file has no stamp.
    `packed` is the label of a packed copy, empty for the images themselves; `source_sha256` is the digest of the
    manifest that a packed copy was made of. `maps`, for segmentation only, lists the label map of each image in the
    same order, a PNG of label ids; the label of such an image is its map, and `labels` holds 0.
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

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes of the dataset, which all its splits share."""
        return len(self.classes)

    @cached_property
    def wnids(self) -> TextColumn:
        """The WNID of each image."""
        return TextColumn(_coded(self.labels, self.classes))

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
        """Read a manifest; raises CompanionError where the file is missing, damaged or not one of ours."""
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
                files=TextColumn(_one_array(table.column("file"))),
                offsets=_int64(table.column("offset")),
                lengths=_int64(table.column("length")),
                labels=_int64(table.column("label")),
                names=TextColumn(_one_array(table.column("name"))),
                classes=tuple(facts["wnids"]),
                class_names=tuple(facts["class_names"]),
                sha256=facts["sha256"],
                stamps={name: tuple(stamp) for name, stamp in facts["stamps"].items()},
                packed=facts["packed"],
                source_sha256=facts["source_sha256"],
                path=str(path),
            )
            if "maps_sha256" not in facts:
                return own
            maps = {name: table.column(f"map_{name}") for name in ("file", "offset", "length")}
            return replace(own, maps=replace(
                own, files=TextColumn(_one_array(maps["file"])), offsets=_int64(maps["offset"]),
                lengths=_int64(maps["length"]), sha256=facts["maps_sha256"], stamps={}, path="",
            ))  # fmt: skip
        except FileNotFoundError:
            raise CompanionError(f"manifest {path} does not exist; make it with the verb index") from None
        except (pyarrow.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            raise CompanionError(
                f"{path} is not readable as a manifest ({type(error).__name__}); remove it and index the data again"
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
        }
        columns = {
            "file": self.files.arrow,
            "offset": _numbers(self.offsets),
            "length": _numbers(self.lengths),
            "label": _numbers(self.labels),
            "wnid": self.wnids.arrow,
            "name": self.names.arrow,
        }
        if self.maps is not None:
            facts["maps_sha256"] = self.maps.sha256
            columns |= {
                "map_file": self.maps.files.arrow,
                "map_offset": _numbers(self.maps.offsets),
                "map_length": _numbers(self.maps.lengths),
            }
        table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(facts, sort_keys=True)})
        parquet.write_table(
            table,
            path,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=["file", "wnid"],
            write_page_checksum=True,
        )


def dataset_sha256(*manifests: Manifest) -> str:
    """The identity of a dataset: the digest over its splits' digests, in the order train, validation.

    A packed copy counts as the images that it was made of: it is a recipe's way to read them, and the recipe says so.
    """
    digests = (manifest.source_sha256 or manifest.sha256 for manifest in manifests)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


# Arrow arrays are made from buffers here: `pyarrow.array` and `pyarrow.table` import pandas, which costs a second.
def _numbers(values: np.ndarray) -> Any:
    import pyarrow

    values = np.ascontiguousarray(values)
    return pyarrow.Array.from_buffers(pyarrow.from_numpy_dtype(values.dtype), len(values), [None, _buffer(values)])


def _texts(utf8: bytes | bytearray, ends: np.ndarray) -> Any:
    import pyarrow

    return pyarrow.LargeStringArray.from_buffers(
        len(ends) - 1, _buffer(ends.astype(np.int64, copy=False)), _buffer(utf8)
    )


def _coded(codes: np.ndarray, words: Sequence[str]) -> Any:
    import pyarrow

    utf8 = [word.encode() for word in words]
    ends = np.concatenate([[0], np.cumsum([len(word) for word in utf8], dtype=np.int64)])
    values = pyarrow.StringArray.from_buffers(len(utf8), _buffer(ends.astype(np.int32)), _buffer(b"".join(utf8)))
    return pyarrow.DictionaryArray.from_arrays(_numbers(codes.astype(np.int32, copy=False)), values)


def _buffer(values: Any) -> Any:
    import pyarrow

    return pyarrow.py_buffer(values)


def _int64(column: Any) -> np.ndarray:
    # `to_numpy` would import pandas as well.
    values = _one_array(column)
    if str(values.type) != "int64" or values.null_count:
        raise ValueError("a number is missing")
    return np.frombuffer(values.buffers()[1], np.int64, count=len(values), offset=8 * values.offset).copy()


def _one_array(column: Any) -> Any:
    combined = column.combine_chunks()
    return combined.chunk(0) if hasattr(combined, "chunk") else combined


class ManifestBuilder:
    """Collects images class by class in compact columns: 1.3 million of them take about 60 MB."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._file_index: dict[str, int] = {}
        self._classes: dict[str, _ClassColumns] = {}
        self.duplicates: list[str] = []

    @property
    def classes(self) -> list[str]:
        """The WNIDs seen so far, sorted."""
        return sorted(self._classes)

    def __contains__(self, wnid: str) -> bool:
        return wnid in self._classes

    def __len__(self) -> int:
        return sum(len(columns.lengths) for columns in self._classes.values())

    def add_class(self, wnid: str, images: Iterable[tuple[str, str, int, int]]) -> None:
        """Add images of one class as (name, file, offset, length) in the order of the archive.

        Of images with one name the last stays, as when an archive is extracted; their names go to `duplicates`. A
        class that was added before is replaced.
        """
        images = list(images)
        last = {image[0]: image for image in images}
        if len(last) != len(images):
            seen: set[str] = set()
            for name, *_ in images:
                if name in seen:
                    self.duplicates.append(f"{wnid}/{name}")
                seen.add(name)
        ordered = sorted(last, key=_folder_then_name if any("/" in name for name in last) else None)
        encoded = [name.encode() for name in ordered]
        rows = [last[name] for name in ordered]
        numbers = {file: self._file_number(file) for file in dict.fromkeys(row[1] for row in rows)}
        columns = _ClassColumns()
        columns.names += b"".join(encoded)
        columns.name_ends.extend(accumulate(map(len, encoded)))
        columns.files.extend([numbers[row[1]] for row in rows])
        columns.offsets.extend([row[2] for row in rows])
        columns.lengths.extend([row[3] for row in rows])
        self._classes[wnid] = columns

    def _file_number(self, file: str) -> int:
        number = self._file_index.get(file)
        if number is None:
            number = self._file_index[file] = len(self._files)
            self._files.append(file)
        return number

    def build(
        self,
        classes: Sequence[str],
        class_names: Sequence[str],
        *,
        stamps: Mapping[str, tuple[int, int]] | None = None,
        packed: str = "",
        source_sha256: str = "",
    ) -> Manifest:
        """The manifest of all images added, with labels from the place of their WNID in `classes`.

        The builder is empty afterwards, so that no image is held twice.
        """
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        n, names, digest = len(self), bytearray(), hashlib.sha256()
        files, name_ends = np.empty(n, np.int32), np.zeros(n + 1, np.int64)
        offsets, lengths, labels = (np.empty(n, np.int64) for _ in range(3))
        start = 0
        for wnid in sorted(self._classes, key=label_of.__getitem__):
            columns, label = self._classes.pop(wnid), label_of[wnid]
            stop = start + len(columns.lengths)
            name_ends[start + 1 : stop + 1] = columns.name_ends
            name_ends[start + 1 : stop + 1] += len(names)
            names += columns.names
            files[start:stop], offsets[start:stop] = columns.files, columns.offsets
            lengths[start:stop], labels[start:stop] = columns.lengths, label
            digest.update("".join(columns.identity_lines(wnid, label)).encode())
            start = stop
        return Manifest(
            files=TextColumn(_coded(files, self._files)),
            offsets=offsets,
            lengths=lengths,
            labels=labels,
            names=TextColumn(_texts(names, name_ends)),
            classes=tuple(classes),
            class_names=tuple(class_names),
            sha256=digest.hexdigest(),
            stamps=dict(stamps or {}),
            packed=packed,
            source_sha256=source_sha256,
        )


class _ClassColumns:
    """The images of one class, sorted by name."""

    __slots__ = ("files", "lengths", "name_ends", "names", "offsets")

    def __init__(self) -> None:
        self.names = bytearray()
        self.name_ends, self.files = array("q"), array("i")
        self.offsets, self.lengths = array("q"), array("q")

    def identity_lines(self, wnid: str, label: int) -> Iterator[str]:
        """What the manifest's digest covers: name, label, WNID and length, but neither archive nor offset."""
        start, tail = 0, f"\t{label}\t{wnid}\t"
        names = self.names.decode() if self.names.isascii() else None
        for end, length in zip(self.name_ends, self.lengths):
            name = self.names[start:end].decode() if names is None else names[start:end]
            yield f"{name}{tail}{length}\n"
            start = end


def _folder_then_name(name: str) -> tuple[str, str]:
    # The order of torchvision's ImageFolder, which sorts the folders first and then the files of each.
    folder, _, base = name.rpartition("/")
    return folder, base
