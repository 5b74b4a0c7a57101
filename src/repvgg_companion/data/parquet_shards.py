"""ImageNet as Parquet shards (Hugging Face's imagenet-1k): images imported once into one plain tar per split.

In: a folder of shards `train-*.parquet` and `validation-*.parquet` with columns `image` (struct of `bytes`, `path`) and
`label`. Out: two `Split`s. Paths are `<IMAGE>_<WNID>.JPEG`; labels count the sorted WNIDs, and both are compared.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repvgg_companion.data.devkit import Devkit
from repvgg_companion.data.image_tar import ImageTar
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.members import Image
from repvgg_companion.data.splits import Split
from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.files import read_json, write_json
from repvgg_companion.progress import Progress

SHARDS = {"train": ("train-*.parquet",), "val": ("validation-*.parquet", "val-*.parquet")}
PATH_WITH_WNID = re.compile(r"(.+)_(n\d{8})(\.[A-Za-z]+)")
ROWS_AT_ONCE = 64


def from_parquet(folder: str, devkit: Devkit | None, output: Path) -> tuple[Split, Split]:
    """Both splits; the images are copied once into `output`/train.tar and val.tar, and again only if shards change.

    WNIDs come from the paths, or from the devkit where the paths have none. Raises CompanionError for shards that are
    missing or damaged, a label that contradicts the path, and WNIDs that are unknown.
    """
    wnids = dict(enumerate(devkit.wnids)) if devkit is not None else {}
    words: dict[int, str] = {}
    splits: dict[str, Split] = {}
    imported: list[str] = []
    try:
        # Validation first, so that a fault in it shows before the large split is copied.
        for name in ("val", "train"):
            splits[name] = _split(Path(folder), name, wnids, words, output, imported)
        ordered = [wnids[label] for label in sorted(wnids)]
        if ordered != sorted(ordered) or len(set(ordered)) != len(ordered):
            raise CompanionError(
                f"{folder}: the labels do not count the WNIDs in sorted order; these are not imagenet-1k's"
            )
    except CompanionError:
        # Copies of shards that turned out wrong serve nobody; the shards themselves stay.
        for name in imported:
            for path in (output / f"{name}.tar", output / f"{name}.import.json"):
                path.unlink(missing_ok=True)
        raise
    splits["train"].words = {wnid: words[label] for label, wnid in wnids.items() if label in words}
    return splits["train"], splits["val"]


def _split(
    folder: Path, name: str, wnids: dict[int, str], words: dict[int, str], output: Path, imported_now: list[str]
) -> Split:
    shards = sorted(path for pattern in SHARDS[name] for path in folder.rglob(pattern))
    if not shards:
        raise CompanionError(f"{folder} holds no shard {SHARDS[name][0]}; name the folder that they were downloaded to")
    _require_all_shards(folder, shards)
    record_path = output / f"{name}.import.json"
    stamps = {str(path.absolute()): [path.stat().st_size, path.stat().st_mtime_ns] for path in shards}
    imported = _imported_before(output, name, record_path, stamps, wnids)
    if imported is None:
        imported = _import(shards, name, wnids, words, output / f"{name}.tar")
        imported_now.append(name)
        facts = {"shards": stamps, "labels": {wnid: label for label, wnid in wnids.items()}, "words": words}
        write_json(record_path, facts)
    else:
        words.update({int(label): text for label, text in read_json(record_path)["words"].items()})
    return imported


def _require_all_shards(folder: Path, shards: list[Path]) -> None:
    """`train-00003-of-00294.parquet` says how many there are; an incomplete download is noticed here."""
    named = [match for path in shards if (match := re.search(r"-(\d{5})-of-(\d{5})", path.name))]
    for total in {int(match[2]) for match in named}:
        present = {int(match[1]) for match in named if int(match[2]) == total}
        if missing := sorted(set(range(total)) - present):
            raise CompanionError(
                f"{folder} lacks shard {missing[0]:05d} of {total:05d} (it has {shards[0].name}); complete the download"
            )


def _imported_before(output: Path, name: str, record: Path, stamps: dict, wnids: dict[int, str]) -> Split | None:
    manifest_path, tar_path = output / f"{name}.parquet", output / f"{name}.tar"
    if not (record.exists() and manifest_path.exists() and tar_path.exists()):
        return None
    facts = read_json(record)
    manifest = Manifest.read(manifest_path)
    status = tar_path.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    if facts["shards"] != stamps or manifest.stamps != {str(tar_path.absolute()): stamp}:
        return None
    for wnid, label in facts["labels"].items():
        if wnids.setdefault(label, wnid) != wnid:
            return None
    split = Split(stamps=dict(manifest.stamps))
    classes: dict[str, list[Image]] = {}
    for wnid, *image in zip(
        manifest.wnids, manifest.names, manifest.files, manifest.offsets.tolist(), manifest.lengths.tolist()
    ):
        classes.setdefault(wnid, []).append(Image(*image))
    split.add(classes, str(tar_path))
    return split


def _import(shards: list[Path], name: str, wnids: dict[int, str], words: dict[int, str], target: Path) -> Split:
    import pyarrow
    from pyarrow import parquet

    split = Split()
    classes: dict[str, list[Image]] = {}
    try:
        rows = 0
        for path in shards:
            with parquet.ParquetFile(path) as shard:
                rows += shard.metadata.num_rows
        with ImageTar(target) as tar, Progress(f"importing {name}", total=rows, unit="images") as progress:
            for number, path in enumerate(shards):
                for place, (content, image_path, label) in enumerate(_rows(path, words)):
                    where = f"{path}, row {place}"
                    if not content:
                        raise CompanionError(f"{where} holds no image bytes; get the shard again")
                    wnid, image_name = _identify(image_path, label, wnids, where)
                    image_name = image_name or f"{number:05d}-{place:06d}.JPEG"
                    classes.setdefault(wnid, []).append(tar.add(wnid, image_name, content))
                    progress.advance()
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise CompanionError(f"importing into {target} failed: {error.strerror}; nothing was kept of it") from None
        raise CompanionError(f"{path} is not readable as a shard ({one_line(error)}); get it again") from None
    split.stamps = {tar.path: tar.stamp}
    split.add(classes, str(shards[0].parent))
    return split


def _rows(path: Path, words: dict[int, str]) -> Iterator[tuple[bytes | None, str | None, int]]:
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
        for batch in shard.iter_batches(batch_size=ROWS_AT_ONCE, columns=["image", "label"]):
            images, labels = batch.column("image"), batch.column("label").to_pylist()
            yield from zip(images.field("bytes").to_pylist(), images.field("path").to_pylist(), labels)


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
