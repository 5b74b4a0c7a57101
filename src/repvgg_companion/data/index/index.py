"""The `index` verb: writes `train.parquet`, `val.parquet` and `dataset.json` from archives, folders or shards.

Nothing is extracted: a manifest holds byte ranges of the archives as they are. Needs no torch.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repvgg_companion.data.index.archive_opener import ArchiveOpener
from repvgg_companion.data.index.cifar_archive import from_cifar
from repvgg_companion.data.index.devkit import read_devkit
from repvgg_companion.data.index.digests import DigestRecord
from repvgg_companion.data.index.known_classes import KnownClasses
from repvgg_companion.data.index.labels_file import read_labels
from repvgg_companion.data.index.overlap import shared_images
from repvgg_companion.data.index.parquet_shards import from_parquet
from repvgg_companion.data.index.split import IndexJob, Split
from repvgg_companion.data.index.splits import (
    from_kaggle,
    train_from_archive,
    train_from_folder,
    val_from_archive,
    val_from_folder,
)
from repvgg_companion.data.index.zip_splits import from_zip
from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.data.origin import Origin
from repvgg_companion.data.whole_batch import require_whole_batch
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, json_text
from repvgg_companion.settings import request_of

NUMBERS = "the class folders are called by numbers; their labels follow the numbers: 2 comes before 10"
Splits = dict[str, Split]


@dataclass(frozen=True)
class IndexRequest:
    """What to index. `sources` are the paths of `SOURCES` that were given, by option."""

    dataset: str
    output: Path
    sources: dict[str, str]
    labels: str | None = None
    num_classes: int | None = None
    verify: bool = True
    needs_train: bool = False
    largest_batch: int | None = None
    classes: tuple[str, ...] = ()

    def origin(self) -> Origin:
        """The options that name dataset and images, and where these are."""
        named = {**self.sources, **({"labels": self.labels} if self.labels is not None else {})}
        words = [word for name, path in named.items() for word in (_option(name), path)]
        words += ["--classes", *self.classes] if self.classes else []
        places = {os.path.abspath(path): path for path in self.sources.values()}  # noqa: PTH100
        return Origin(("--dataset", self.dataset, *words), places)


SOURCES = {
    "train_archive": ("FILE", "ILSVRC2012_img_train.tar"),
    "val_archive": ("FILE", "ILSVRC2012_img_val.tar"),
    "devkit": ("FILE", "ILSVRC2012_devkit_t12.tar.gz, or its folder"),
    "zip": ("FILE", "a zip with train and val folders, as tiny-imagenet-200.zip or Kaggle's own"),
    "train_folder": ("FOLDER", "a folder with one folder of images per class"),
    "val_folder": ("FOLDER", "the same, or a flat folder with --devkit"),
    "kaggle_folder": ("FOLDER", "the folder that holds LOC_val_solution.csv"),
    "parquet_folder": ("FOLDER", "Parquet shards train-* and validation-*"),
    "cifar_archive": ("FILE", "cifar-10-binary.tar.gz or cifar-100-binary.tar.gz"),
    "cityscapes_folder": ("FOLDER", "the folder that holds leftImg8bit and gtFine"),
}


def _archives(sources: dict[str, str], job: IndexJob) -> Splits:
    # Validation first: it is small, and shows whether the devkit is missing.
    val = val_from_archive(sources["val_archive"], job.opener.open, job.devkit)
    if "train_archive" not in sources:
        return {"val": val}
    return {"train": train_from_archive(sources["train_archive"], job.opener.open), "val": val}


def _folders(sources: dict[str, str], job: IndexJob) -> Splits:
    val = val_from_folder(sources["val_folder"], job.devkit)
    if "train_folder" not in sources:
        return {"val": val}
    return {"train": train_from_folder(sources["train_folder"]), "val": val}


READERS: dict[frozenset[str], tuple[Callable[[dict[str, str], IndexJob], Splits], bool]] = {
    frozenset({"train_archive", "val_archive"}): (_archives, True),
    frozenset({"val_archive"}): (_archives, True),
    frozenset({"train_folder", "val_folder"}): (_folders, True),
    frozenset({"val_folder"}): (_folders, True),
    frozenset({"zip"}): (lambda sources, job: from_zip(sources["zip"], job), False),
    frozenset({"kaggle_folder"}): (lambda sources, _: from_kaggle(sources["kaggle_folder"]), False),
    frozenset({"parquet_folder"}): (lambda sources, job: from_parquet(sources["parquet_folder"], job), True),
    frozenset({"cifar_archive"}): (lambda sources, job: from_cifar(sources["cifar_archive"], job), False),
}
"""The reader of each combination of sources, and whether a devkit may come with it."""

FORMS = """--val-archive or --val-folder, each alone or with --train-archive or --train-folder; --zip; --kaggle-folder;
--parquet-folder; --cifar-archive; --cityscapes-folder. Flat validation images need --devkit"""


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `index` verb."""
    parser.epilog = f"The images are named by one of: {FORMS}."
    parser.add_argument("--dataset", required=True, help="name of the image set")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="results/data/DATASET")
    for name, (metavar, text) in SOURCES.items():
        parser.add_argument(_option(name), metavar=metavar, help=text)
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="which label each class folder has: lines NAME, NAME LABEL or NAME WNID; needed only to evaluate released "
        "weights on folders not called by WNIDs",
    )
    parser.add_argument("--classes", nargs="+", default=[], metavar="WNID", help="keep these classes only")
    parser.add_argument("--num-classes", type=int, metavar="N", help="fail unless there are N classes")
    parser.add_argument("--needs-train", action="store_true", help="fail unless there are training images")
    parser.add_argument(
        "--largest-batch", type=int, metavar="N", help="fail unless there are N training images: one whole batch"
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare archives that have a published MD5 with it, once per size and modification time (default: yes)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Turn the arguments into a request and index it."""
    named = {name: getattr(arguments, name) for name in (*SOURCES, "labels")}
    paths = {name: os.path.expanduser(path) for name, path in named.items() if path is not None}  # noqa: PTH111
    index(request_of(IndexRequest, arguments, labels=paths.pop("labels", None), sources=paths))


def index(request: IndexRequest) -> None:
    """Write the manifests of a dataset; raises CompanionError if the images do not fit the request or each other."""
    _require_utf8(request)
    with contextlib.ExitStack() as naming:  # tars of copied images get their names only if all goes well
        if "cityscapes_folder" in request.sources:
            notes: list[str] = []
            manifests = _segmentation(request)
        else:
            manifests, notes = _classification(request, naming)
        if request.largest_batch is not None and "train" in manifests:
            require_whole_batch(request.largest_batch, len(manifests["train"]))
        with contextlib.ExitStack() as stack:  # a full disk leaves none of them
            for name, manifest in manifests.items():
                path = stack.enter_context(atomic_path(request.output / f"{name}.parquet", flush=False))
                manifest.write_parquet(path)
            facts = stack.enter_context(atomic_path(request.output / "dataset.json", flush=False))
            facts.write_text(json_text(_facts(request, manifests, notes)), encoding="utf-8")
            naming.close()  # before the manifests take their names: no manifest names a tar that does not exist
    for note in notes:
        print(f"index: note: {note}", file=sys.stderr)
    counts = ", ".join(f"{len(manifest):,} {name} images" for name, manifest in manifests.items())
    print(f"{request.dataset}: {counts} in {next(iter(manifests.values())).num_classes} classes")


def _segmentation(request: IndexRequest) -> dict[str, Manifest]:
    from repvgg_companion.data.index.cityscapes_folder import from_cityscapes

    others = [name for name in request.sources if name != "cityscapes_folder"]
    others += [name for name in ("labels", "classes") if getattr(request, name)]
    if others:
        raise CompanionError(
            f"--cityscapes-folder and {_option(others[0])} both name images or labels; leave one of them out"
        )
    manifests = from_cityscapes(request.sources["cityscapes_folder"])
    KnownClasses(request.dataset, num_classes=request.num_classes).require_number(manifests["train"].num_classes)
    return manifests


def _classification(request: IndexRequest, naming: contextlib.ExitStack) -> tuple[dict[str, Manifest], list[str]]:
    """The manifests, and the notes about them."""
    opener = ArchiveOpener(DigestRecord(request.output / "digests.json"), verify=request.verify)
    known = _known_classes(request, opener)
    job = IndexJob(request.output, naming, opener, known)
    splits = _read(request, job)
    if request.needs_train and "train" not in splits:
        raise CompanionError(
            f"{next(iter(request.sources.values()))} holds validation images only, but something is to be trained; "
            "name the training images too"
        )
    names = {name: split.builder.classes for name, split in splits.items()}
    if known.chosen:
        for split in splits.values():
            split.builder.keep(known.chosen)
    classes = known.ordered(names.get("train"), names["val"], splits["val"].class_order)
    words = {wnid: text for split in splits.values() for wnid, text in split.words.items()}
    if known.devkit is not None:
        words = known.devkit.words
    notes = [f"{name}: {note}" for name, split in splits.items() for note in split.notes()]
    manifests = {}
    for name, split in splits.items():
        if known.labels is not None:
            split.builder.rename(known.labels.class_named)
        if missing := [one for one in classes if one not in split.builder.classes]:
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            notes.append(f"{name}: {len(missing)} of {len(classes)} classes have no image ({shown})")
        manifest = split.builder.build(classes, [words.get(wnid, wnid) for wnid in classes])
        label_order = known.label_order or manifest.label_order
        manifests[name] = replace(manifest, stamps=split.stamps, label_order=label_order, origin=request.origin())
    if manifests["val"].label_order == "numbers":
        notes.append(NUMBERS)
    return manifests, notes + job.notes + _overlap(manifests)


def _known_classes(request: IndexRequest, opener: ArchiveOpener) -> KnownClasses:
    devkit, labels = request.sources.get("devkit"), request.labels
    if devkit is not None and labels is not None:
        raise CompanionError("--devkit and --labels both number the classes; leave one of them out")
    if devkit is not None:
        opener.check(devkit)
    return KnownClasses(
        request.dataset,
        devkit=None if devkit is None else read_devkit(devkit),
        labels=None if labels is None else read_labels(labels),
        num_classes=request.num_classes,
        chosen=_chosen(request),
    )


def _chosen(request: IndexRequest) -> tuple[str, ...]:
    if twice := [name for name in request.classes if request.classes.count(name) > 1]:
        raise CompanionError(f"--classes (data.classes) names {twice[0]} twice; name it once")
    if request.classes and request.labels is not None:
        raise CompanionError("--classes and --labels both number the classes; leave one of them out")
    return request.classes


def _read(request: IndexRequest, job: IndexJob) -> Splits:
    given = request.sources.keys() - {"devkit"}
    reader, takes_devkit = READERS.get(frozenset(given), (None, False))
    if reader is None or (job.devkit is not None and not takes_devkit):
        options = ", ".join(map(_option, sorted(request.sources if reader else given))) or "no images"
        raise CompanionError(f"{options} given; name the images by one of: {' '.join(FORMS.split())}")
    return reader(request.sources, job)


def _overlap(manifests: dict[str, Manifest]) -> list[str]:
    """A note where validation images are training images."""
    shared = compared = 0
    if "train" in manifests:
        with contextlib.suppress(CompanionError):  # what cannot be read yet, or at all, is reported by its reader
            shared, compared = shared_images(manifests["train"], manifests["val"])
    if not shared:
        return []
    return [
        f"val: of {compared} images compared with training images of their class and size, {shared} are the same byte "
        "for byte; accuracies on them say nothing about other images"
    ]


def _require_utf8(request: IndexRequest) -> None:
    """Manifests hold whole paths as UTF-8; Linux takes any bytes for a name."""
    for path in (str(request.output), *request.sources.values()):
        try:
            os.path.abspath(path).encode()  # noqa: PTH100 - Path.resolve would follow links
        except UnicodeEncodeError:
            raise CompanionError(f"the path {path!r} is not UTF-8; rename it, or give a symbolic link to it") from None


def _facts(request: IndexRequest, manifests: dict[str, Manifest], notes: list[str]) -> dict[str, Any]:
    some = next(iter(manifests.values()))
    return {
        "dataset": request.dataset,
        "dataset_sha256": dataset_sha256(*manifests.values()),
        "num_classes": some.num_classes,
        **{name: {"n_images": len(manifest), "sha256": manifest.sha256} for name, manifest in manifests.items()},
        "sources": [*request.sources.values(), *([request.labels] if request.labels is not None else [])],
        "chosen_classes": list(request.classes),
        "label_order": some.label_order,
        "wnids": some.classes,
        "class_names": some.class_names,
        "notes": notes,
    }
