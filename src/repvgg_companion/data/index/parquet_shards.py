"""The splits of a dataset from Parquet shards, as Hugging Face writes them; images are copied once into a tar.

A shard has the columns `image` (struct of `bytes`, `path`) and `label`. A class is called by the WNID at the end of the
paths (`IMAGE_WNID.JPEG`, as in imagenet-1k), else by the devkit, else by the names in the shards' own metadata.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repvgg_companion.data.images import ImageColumns, emptied
from repvgg_companion.data.index.classes import SPLIT_OF_NAME
from repvgg_companion.data.index.findings import Findings, is_foreign
from repvgg_companion.data.index.image_tar import ImageTar
from repvgg_companion.data.index.source import require_folder
from repvgg_companion.data.index.split import IndexJob, Split
from repvgg_companion.data.label_order import WNID
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.files import atomic_path, json_text, read_json
from repvgg_companion.progress import Progress

PATH_WITH_WNID = re.compile(r"(.+)_(n\d{8})(\.[A-Za-z]+)")
ROWS_AT_ONCE = 64
LABELS_AT_ONCE = 4096


@dataclass
class _Labels:
    """The class of each label: `wnids` from paths or the devkit, `names` from the shards' metadata."""

    wnids: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def class_of(self, label: int, where: str = "") -> str:
        """The class of a label; raises CompanionError if nothing names it."""
        name = self.wnids.get(label) or self.names.get(label)
        if name is None:
            raise CompanionError(
                f"{where}: nothing names label {label}: neither the images' paths nor the shards' metadata; name the "
                "devkit, which has the WNIDs, with --devkit"
            )
        return name

    def own_order(self) -> list[str] | None:
        """The classes in the order of the shards' labels, if the shards' metadata alone names them."""
        if self.wnids:
            return None
        return [name for _, name in sorted(self.names.items()) if not is_foreign(name)]

    def require_order(self, folder: str) -> None:
        """Raise CompanionError if WNIDs are not in sorted order, or two labels have one name."""
        names = [self.class_of(label) for label in sorted({*self.wnids, *self.names})]
        if self.wnids and all(map(WNID.fullmatch, names)) and names != sorted(names):
            raise CompanionError(
                f"{folder}: the labels do not count the WNIDs in sorted order; these are not imagenet-1k's"
            )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise CompanionError(f"{folder}: two labels have the name {twice[0]!r}; name the devkit with --devkit")


def from_parquet(folder: str, job: IndexJob) -> dict[str, Split]:
    """The splits; images are copied once into `job.output`/train.tar and val.tar, and again only if shards change.

    Without training shards there is the validation split alone. Raises CompanionError for shards that are missing or
    damaged, a label that contradicts the path, and labels without a class; what paths and labels say is looked at, and
    given to `job.known`, before anything is copied.
    """
    left_out: dict[str, None] = {}
    shards = shards_by_split(folder, left_out)
    labels = _Labels(dict(enumerate(job.devkit.wnids)) if job.devkit is not None else {})
    imports = {name: _Import(name, shards[name], job) for name in ("val", "train") if shards[name]}
    seen = {name: split.labels(labels) for name, split in imports.items()}
    labels.require_order(folder)
    classes = {name: {labels.class_of(label, folder) for label in found} for name, found in seen.items()}
    own = labels.own_order()
    job.known.ordered(classes.get("train"), classes["val"], own)
    splits = {name: split.imported(labels) for name, split in imports.items()}
    words = {wnid: labels.names[label] for label, wnid in labels.wnids.items() if label in labels.names}
    splits["val"].words, splits["val"].class_order = words, own
    for path in left_out:
        splits["val"].findings.enters(path)  # counts it
    return dict(sorted(splits.items()))


def shards_by_split(folder: str, left_out: dict[str, None]) -> dict[str, list[Path]]:
    """The shards of train and val; raises CompanionError if those of val are missing or a download is incomplete.

    Hidden and foreign files and folders are added to `left_out`.
    """
    require_folder(folder)
    shards = {name: _shards_of(Path(folder), name, left_out) for name in ("train", "val")}
    if not shards["val"]:
        raise CompanionError(
            f"{folder} holds no shard called validation-*.parquet (or val, valid); name the folder that they were "
            "downloaded to"
        )
    return shards


def _shards_of(folder: Path, split: str, left_out: dict[str, None]) -> list[Path]:
    """The shards of a split under a folder, by their own name or that of the folder around them; links are followed.

    Hidden and foreign files and folders are added to `left_out` by their path in `folder`.
    """
    named: dict[str, list[Path]] = {}
    around: dict[str, set[str]] = {str(folder): {os.path.realpath(folder)}}
    for at, folders, files in os.walk(folder, followlinks=True):
        above = around.pop(at)
        for name in list(folders):
            inner = os.path.join(at, name)  # noqa: PTH118
            real = os.path.realpath(inner)
            if is_foreign(name):
                left_out[os.path.relpath(inner, folder)] = None
            if is_foreign(name) or real in above:
                folders.remove(name)
            else:
                around[inner] = {*above, real}
        for file in files:
            if is_foreign(file):
                left_out[os.path.relpath(Path(at) / file, folder)] = None
            elif file.endswith(".parquet"):
                for part in (re.split(r"[-_.]", file)[0], Path(at).name):
                    if part in SPLIT_OF_NAME:
                        if SPLIT_OF_NAME[part] == split:
                            named.setdefault(part, []).append(Path(at) / file)
                        break
    if len(named) > 1:
        raise CompanionError(f"{folder} holds shards called {' and '.join(sorted(named))}; name the folder of one set")
    shards = sorted(path for paths in named.values() for path in paths)
    _require_all_shards(folder, shards)
    return shards


def _require_all_shards(folder: Path, shards: list[Path]) -> None:
    """`train-00003-of-00294.parquet` says how many there are; an incomplete download is noticed here."""
    places: dict[str, Path] = {}
    for path in shards:
        if re.search(r"-\d{5}-of-\d{5}", path.name) and places.setdefault(path.name, path) != path:
            raise CompanionError(f"{path} and {places[path.name]} are the same shard; name the folder of one download")
    named = [match for path in shards if (match := re.search(r"-(\d{5})-of-(\d{5})", path.name))]
    for total in {int(match[2]) for match in named}:
        present = {int(match[1]) for match in named if int(match[2]) == total}
        if missing := sorted(set(range(total)) - present):
            raise CompanionError(
                f"{folder} lacks shard {missing[0]:05d} of {total:05d} (it has {shards[0].name}); complete the download"
            )


class _Import:
    """The shards of one split, and the tar that they are copied into."""

    def __init__(self, name: str, shards: list[Path], job: IndexJob) -> None:
        self.name, self.shards, self.job = name, shards, job
        statuses = {str(path.absolute()): path.stat() for path in shards}
        self.stamps = {path: [status.st_size, status.st_mtime_ns] for path, status in statuses.items()}
        self.record = job.output / f"{name}.import.json"
        self.tar = job.output / f"{name}.tar"
        self.before: Split | None = None
        self.findings = Findings()

    def labels(self, labels: _Labels) -> set[int]:
        """The labels of the split, without reading images; adds to `labels` what the shards say of them."""
        self.before = self._imported_before(labels)
        if self.before is not None:
            label_of = {labels.class_of(label): label for label in {*labels.wnids, *labels.names}}
            return {label_of[wnid] for wnid in self.before.builder.classes}
        found = set()
        with Progress(f"labels of {self.name}", total=_row_count(self.shards), unit="images") as progress:
            for where, (path, label) in self._rows(labels, images=False):
                _identify(path, label, labels, where)
                found.add(label)
                progress.advance()
        return found

    def imported(self, labels: _Labels) -> Split:
        """The split, its images copied unless an earlier run did it."""
        if self.before is not None:
            return self.before
        # Entered before the tar, so renamed after it: a record never names a tar that does not exist.
        record = self.job.naming.enter_context(atomic_path(self.record))
        facts = {
            "shards": self.stamps,
            "labels": {wnid: label for label, wnid in labels.wnids.items()},
            "words": labels.names,
        }
        record.write_text(json_text(facts), encoding="utf-8")
        return self._copied(labels)

    def _imported_before(self, labels: _Labels) -> Split | None:
        manifest_path = self.job.output / f"{self.name}.parquet"
        if not (self.record.exists() and manifest_path.exists() and self.tar.exists()):
            return None
        status = self.tar.stat()
        try:
            facts = read_json(self.record)
            manifest = Manifest.read(manifest_path)
            if facts["shards"] != self.stamps or list(manifest.stamps.values()) != [
                (status.st_size, status.st_mtime_ns)
            ]:
                return None
            wnids = {int(label): str(wnid) for wnid, label in facts["labels"].items()}
            names = {int(label): str(text) for label, text in facts["words"].items()}
        except (CompanionError, KeyError, TypeError, ValueError, AttributeError):
            return None  # not a record that this version wrote: the images are imported again
        if any(labels.wnids.setdefault(label, wnid) != wnid for label, wnid in wnids.items()):
            return None
        labels.names.update(names)
        known = {labels.class_of(label) for label in {*labels.wnids, *labels.names}}
        if self.job.known.labels is not None or not set(manifest.wnids) <= known:
            return None  # the manifest has the classes of a labels file
        file = str(self.tar.absolute())
        split = Split(stamps={file: (status.st_size, status.st_mtime_ns)})
        classes: dict[str, ImageColumns] = {}
        for wnid, name, offset, length in zip(
            manifest.wnids, manifest.names, map(int, manifest.offsets), map(int, manifest.lengths), strict=True
        ):
            classes.setdefault(wnid, ImageColumns()).append(name, file, offset, length)
        split.add(emptied(classes), str(self.tar))
        return split

    def _copied(self, labels: _Labels) -> Split:
        split = Split(findings=self.findings)
        classes: dict[str, ImageColumns] = {}
        target = ImageTar(self.tar, self.job.naming)
        try:
            total = _row_count(self.shards)
            with target as tar, Progress(f"importing {self.name}", total=total, unit="images") as progress:
                for number, (where, (content, path, label)) in enumerate(self._rows(labels, images=True)):
                    if not content:
                        raise CompanionError(f"{where} holds no image bytes; name intact shards")
                    wnid, name = _identify(path, label, labels, where)
                    place = tar.add(wnid, name or f"{number:08d}.JPEG", content)
                    classes.setdefault(wnid, ImageColumns()).append(*place)
                    progress.advance()
        except OSError as error:
            reason = f"importing into {target.path} failed: {error.strerror}"
            raise CompanionError(f"{reason}; nothing was kept of it") from None
        split.stamps = {tar.path: tar.stamp}
        split.add(emptied(classes), str(self.shards[0].parent))
        return split

    def _rows(self, labels: _Labels, *, images: bool) -> Iterator[tuple[str, tuple]]:
        """Each row with its place in words: (place, (path, label)), with `images` (place, (bytes, path, label))."""
        findings = self.findings if images else Findings()
        for shard in self.shards:
            with _readable(shard):
                for place, row in enumerate(_rows(shard, labels, images=images)):
                    path, label = row[-2:]
                    name = "" if label in labels.wnids else labels.names.get(label, "")
                    if findings.enters("/".join(filter(None, (name, path)))):
                        yield f"{shard}, row {place}", row


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CompanionError(f"{path} is not readable as a shard ({one_line(error)}); name intact shards") from None


def _row_count(shards: list[Path]) -> int:
    from pyarrow import parquet

    rows = 0
    for path in shards:
        with _readable(path), parquet.ParquetFile(path) as shard:
            rows += shard.metadata.num_rows
    return rows


def _rows(path: Path, labels: _Labels, *, images: bool) -> Iterator[tuple]:
    """(path, label) of each row, or (bytes, path, label) with `images`; adds the shard's class names to `labels`."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, page_checksum_verification=True) as shard:
        schema = shard.schema_arrow
        names = set(schema.names)
        if not {"image", "label"} <= names:
            raise CompanionError(
                f"{path} has columns {sorted(names)} instead of image and label; name imagenet-1k's shards"
            )
        if not (_is_image_struct(schema.field("image").type) and str(schema.field("label").type).startswith("int")):
            raise CompanionError(
                f"{path}: image is not a struct of bytes and path, or label is not an integer; "
                "name imagenet-1k's shards"
            )
        for label, text in enumerate(_class_names(schema.metadata)):
            labels.names.setdefault(label, text)
        columns = ["image" if images else "image.path", "label"]
        for batch in shard.iter_batches(batch_size=ROWS_AT_ONCE if images else LABELS_AT_ONCE, columns=columns):
            fields = [batch.column("image").field(field) for field in (("bytes", "path") if images else ("path",))]
            yield from zip(*(field.to_pylist() for field in fields), batch.column("label").to_pylist(), strict=True)


def _is_image_struct(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and {"bytes", "path"} <= {kind.field(place).name for place in range(kind.num_fields)}


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    try:
        return json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return []


def _identify(path: str | None, label: int | None, labels: _Labels, where: str) -> tuple[str, str]:
    """Class and plain image name of a row: `n01440764_10026_n01440764.JPEG` is image n01440764_10026.JPEG."""
    if label is None or label < 0:
        raise CompanionError(f"{where} has no label; name the shards of the training and validation images")
    folder, _, base = (path or "").rpartition("/")
    match = PATH_WITH_WNID.fullmatch(base)
    if match is None:
        name = labels.class_of(label, where)
        _, found, below = f"/{folder}/".partition(f"/{name}/")
        return name, below + base if found else base
    wnid = match[2]
    if labels.wnids.setdefault(label, wnid) != wnid:
        raise CompanionError(
            f"{where}: label {label} is WNID {wnid} here and {labels.wnids[label]} elsewhere; name intact shards"
        )
    return wnid, match[1] + match[3]
