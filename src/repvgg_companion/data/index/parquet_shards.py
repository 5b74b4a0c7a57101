"""ImageNet as Parquet shards (Hugging Face's imagenet-1k): images imported once into one plain tar per split.

In: a folder of shards `train-*.parquet` and `validation-*.parquet` with columns `image` (struct of `bytes`, `path`) and
`label`. Out: two `Split`s. Paths are `<IMAGE>_<WNID>.JPEG`; labels count the sorted WNIDs, and both are compared.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from repvgg_companion.data.images import ImageColumns, emptied
from repvgg_companion.data.index.devkit import Devkit
from repvgg_companion.data.index.image_tar import ImageTar
from repvgg_companion.data.index.splits import CheckClasses, Split
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.files import atomic_path, json_text, read_json
from repvgg_companion.progress import Progress

SHARDS = {"train": ("train-*.parquet",), "val": ("validation-*.parquet", "val-*.parquet")}
PATH_WITH_WNID = re.compile(r"(.+)_(n\d{8})(\.[A-Za-z]+)")
ROWS_AT_ONCE = 64
LABELS_AT_ONCE = 4096


def from_parquet(
    folder: str, devkit: Devkit | None, output: Path, naming: ExitStack, check: CheckClasses
) -> tuple[Split, Split]:
    """Both splits; the images are copied once into `output`/train.tar and val.tar, and again only if shards change.

    The copies take their names when `naming` is left. WNIDs come from the paths, or from the devkit where the paths
    have none. Raises CompanionError for shards that are missing or damaged, a label that contradicts the path, and
    WNIDs that are unknown; what paths and labels say is looked at, and given to `check`, before anything is copied.
    """
    wnids = dict(enumerate(devkit.wnids)) if devkit is not None else {}
    words: dict[int, str] = {}
    splits = {name: _Import(Path(folder), name, output) for name in ("val", "train")}
    seen = {name: split.labels(wnids, words) for name, split in splits.items()}
    ordered = [wnids[label] for label in sorted(wnids)]
    if ordered != sorted(ordered) or len(set(ordered)) != len(ordered):
        raise CompanionError(
            f"{folder}: the labels do not count the WNIDs in sorted order; these are not imagenet-1k's"
        )
    check(*({wnids[label] for label in seen[name]} for name in ("train", "val")))
    val, train = (split.imported(wnids, words, naming) for split in splits.values())
    train.words = {wnid: words[label] for label, wnid in wnids.items() if label in words}
    return train, val


class _Import:
    """The shards of one split, and the tar that they are copied into."""

    def __init__(self, folder: Path, name: str, output: Path) -> None:
        self.name, self.output = name, output
        self.shards = sorted(path for pattern in SHARDS[name] for path in folder.rglob(pattern))
        if not self.shards:
            raise CompanionError(
                f"{folder} holds no shard {SHARDS[name][0]}; name the folder that they were downloaded to"
            )
        _require_all_shards(folder, self.shards)
        statuses = {str(path.absolute()): path.stat() for path in self.shards}
        self.stamps = {path: [status.st_size, status.st_mtime_ns] for path, status in statuses.items()}
        self.record = output / f"{name}.import.json"
        self.before: Split | None = None

    def labels(self, wnids: dict[int, str], words: dict[int, str]) -> set[int]:
        """The labels of the split, without reading images; adds to `wnids` and `words` what the shards say of them."""
        self.before = _imported_before(self.output, self.name, self.record, self.stamps, wnids, words)
        if self.before is not None:
            label_of = {wnid: label for label, wnid in wnids.items()}
            return {label_of[wnid] for wnid in self.before.builder.classes}
        found = set()
        rows = _row_count(self.shards)
        with Progress(f"labels of {self.name}", total=rows, unit="images") as progress:
            for path in self.shards:
                with _readable(path):
                    for place, (image_path, label) in enumerate(_rows(path, words, images=False)):
                        _identify(image_path, label, wnids, f"{path}, row {place}")
                        found.add(label)
                        progress.advance()
        return found

    def imported(self, wnids: dict[int, str], words: dict[int, str], naming: ExitStack) -> Split:
        """The split, its images copied unless an earlier run did it."""
        if self.before is not None:
            return self.before
        # Entered before the tar, so that it takes its name after it: a record never names a tar that is not there.
        record = naming.enter_context(atomic_path(self.record))
        facts = {"shards": self.stamps, "labels": {wnid: label for label, wnid in wnids.items()}, "words": words}
        record.write_text(json_text(facts), encoding="utf-8")
        return _copied(self.shards, self.name, wnids, ImageTar(self.output / f"{self.name}.tar", naming))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CompanionError(f"{path} is not readable as a shard ({one_line(error)}); get it again") from None


def _row_count(shards: list[Path]) -> int:
    from pyarrow import parquet

    rows = 0
    for path in shards:
        with _readable(path), parquet.ParquetFile(path) as shard:
            rows += shard.metadata.num_rows
    return rows


def _require_all_shards(folder: Path, shards: list[Path]) -> None:
    """`train-00003-of-00294.parquet` says how many there are; an incomplete download is noticed here."""
    places: dict[str, Path] = {}
    for path in shards:
        if places.setdefault(path.name, path) != path:
            raise CompanionError(f"{path} and {places[path.name]} are the same shard; name the folder of one download")
    named = [match for path in shards if (match := re.search(r"-(\d{5})-of-(\d{5})", path.name))]
    for total in {int(match[2]) for match in named}:
        present = {int(match[1]) for match in named if int(match[2]) == total}
        if missing := sorted(set(range(total)) - present):
            raise CompanionError(
                f"{folder} lacks shard {missing[0]:05d} of {total:05d} (it has {shards[0].name}); complete the download"
            )


def _imported_before(
    output: Path, name: str, record: Path, stamps: dict, wnids: dict[int, str], words: dict[int, str]
) -> Split | None:
    manifest_path, tar_path = output / f"{name}.parquet", output / f"{name}.tar"
    if not (record.exists() and manifest_path.exists() and tar_path.exists()):
        return None
    status = tar_path.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    try:
        facts = read_json(record)
        manifest = Manifest.read(manifest_path)
        if facts["shards"] != stamps or manifest.stamps != {str(tar_path.absolute()): stamp}:
            return None
        label_of = {str(wnid): int(label) for wnid, label in facts["labels"].items()}
        words.update({int(label): str(text) for label, text in facts["words"].items()})
    except (CompanionError, KeyError, TypeError, ValueError, AttributeError):
        return None  # no record that this version wrote: the images are imported again
    for wnid, label in label_of.items():
        if wnids.setdefault(label, wnid) != wnid:
            return None
    split = Split(stamps=dict(manifest.stamps))
    classes: dict[str, ImageColumns] = {}
    for wnid, *image in zip(
        manifest.wnids, manifest.names, manifest.files, map(int, manifest.offsets), map(int, manifest.lengths)
    ):
        classes.setdefault(wnid, ImageColumns()).append(*image)
    split.add(emptied(classes), str(tar_path))
    return split


def _copied(shards: list[Path], name: str, wnids: dict[int, str], target: ImageTar) -> Split:
    split = Split()
    classes: dict[str, ImageColumns] = {}
    try:
        with target as tar, Progress(f"importing {name}", total=_row_count(shards), unit="images") as progress:
            for number, path in enumerate(shards):
                with _readable(path):
                    for place, (content, image_path, label) in enumerate(_rows(path, {}, images=True)):
                        where = f"{path}, row {place}"
                        if not content:
                            raise CompanionError(f"{where} holds no image bytes; get the shard again")
                        wnid, image_name = _identify(image_path, label, wnids, where)
                        image_name = image_name or f"{number:05d}-{place:06d}.JPEG"
                        classes.setdefault(wnid, ImageColumns()).append(*tar.add(wnid, image_name, content))
                        progress.advance()
    except OSError as error:
        raise CompanionError(f"importing into {target.path} failed: {error.strerror}; nothing was kept of it") from None
    split.stamps = {tar.path: tar.stamp}
    split.add(emptied(classes), str(shards[0].parent))
    return split


def _rows(path: Path, words: dict[int, str], *, images: bool) -> Iterator[tuple]:
    """(Path, label) of each row, with `images` their bytes before; adds to `words` what the shard calls its labels."""
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
                f"{path}: image is no struct of bytes and path, or label no integer; name imagenet-1k's shards"
            )
        for label, text in enumerate(_class_names(schema.metadata)):
            words.setdefault(label, text)
        columns = ["image" if images else "image.path", "label"]
        for batch in shard.iter_batches(batch_size=ROWS_AT_ONCE if images else LABELS_AT_ONCE, columns=columns):
            fields = [batch.column("image").field(field) for field in (("bytes", "path") if images else ("path",))]
            yield from zip(*(field.to_pylist() for field in fields), batch.column("label").to_pylist())


def _is_image_struct(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and {"bytes", "path"} <= {kind.field(place).name for place in range(kind.num_fields)}


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    try:
        return json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return []


def _identify(path: str | None, label: int | None, wnids: dict[int, str], where: str) -> tuple[str, str]:
    """WNID and plain image name of a row: `n01440764_10026_n01440764.JPEG` is image n01440764_10026.JPEG."""
    if label is None or label < 0:
        raise CompanionError(f"{where} has no label; name the shards of the training and validation images")
    base = (path or "").rpartition("/")[2]
    match = PATH_WITH_WNID.fullmatch(base)
    if match is None:
        if label not in wnids:
            raise CompanionError(
                f"{where}: the path {path!r} does not end in a WNID; name the devkit, which has them, with --devkit"
            )
        return wnids[label], base
    wnid = match[2]
    if wnids.setdefault(label, wnid) != wnid:
        raise CompanionError(f"{where}: label {label} is WNID {wnid} here and {wnids[label]} elsewhere; get it again")
    return wnid, match[1] + match[3]
