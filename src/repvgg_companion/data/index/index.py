"""The `index` verb: archives, folders, a zip or Parquet shards in, `train.parquet`, `val.parquet`, `dataset.json` out.

Nothing is extracted: a manifest holds byte ranges of the archives as they are. Needs no torch.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from repvgg_companion.data.index.devkit import Devkit, read_devkit
from repvgg_companion.data.index.digests import DigestRecord, expected_md5, require_match
from repvgg_companion.data.index.overlap import shared_images
from repvgg_companion.data.index.source import HashedSource, SeekSource
from repvgg_companion.data.index.splits import (
    Split,
    from_folder,
    from_kaggle,
    from_zip,
    train_from_archive,
    val_from_archive,
)
from repvgg_companion.data.index.verify import ByteProgress, md5_with_progress
from repvgg_companion.data.label_order import in_label_order
from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, json_text

FORMS = """one of: --train-archive, --val-archive and --devkit together; --val-archive and --devkit; --zip;
--train-folder and --val-folder (and --devkit where validation images lie flat); --kaggle-folder; --parquet-folder;
--cityscapes-folder"""

NUMBERS = "the class folders are called by numbers; their labels follow the numbers: 2 comes before 10"

_SOURCES = (
    "train_archive",
    "val_archive",
    "devkit",
    "zip",
    "train_folder",
    "val_folder",
    "kaggle_folder",
    "parquet_folder",
    "cityscapes_folder",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `index` verb."""
    parser.epilog = f"The images are named by {FORMS}."
    parser.add_argument("--dataset", required=True, help="name of the image set")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="results/data/DATASET")
    parser.add_argument("--train-archive", metavar="FILE", help="ILSVRC2012_img_train.tar")
    parser.add_argument("--val-archive", metavar="FILE", help="ILSVRC2012_img_val.tar")
    parser.add_argument("--devkit", metavar="FILE", help="ILSVRC2012_devkit_t12.tar.gz, or its folder")
    parser.add_argument("--zip", metavar="FILE", help="a zip with train and val folders, as tiny-imagenet-200.zip")
    parser.add_argument("--train-folder", metavar="FOLDER", help="a folder with one folder of images per class")
    parser.add_argument("--val-folder", metavar="FOLDER", help="the same, or a flat folder with --devkit")
    parser.add_argument("--kaggle-folder", metavar="FOLDER", help="the folder that holds LOC_val_solution.csv")
    parser.add_argument("--parquet-folder", metavar="FOLDER", help="Parquet shards train-* and validation-*")
    parser.add_argument("--cityscapes-folder", metavar="FOLDER", help="the folder that holds leftImg8bit and gtFine")
    parser.add_argument("--num-classes", type=int, metavar="N", help="fail unless there are N classes")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare archives that have a published MD5 with it, once per size and modification time (default: yes)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the manifests of a dataset; raises CompanionError where the images cannot be what they should be."""
    output = Path(arguments.output)
    _require_utf8(arguments)
    opener = _Opener(DigestRecord(output / "digests.json"), arguments.verify)
    devkit = None
    if arguments.devkit is not None:
        opener.check(arguments.devkit)
        devkit = read_devkit(arguments.devkit)
    splits: dict[str, Split] = {}
    notes: list[str] = []
    with contextlib.ExitStack() as naming:  # of tars that images are copied into: only when nothing is at fault
        if arguments.cityscapes_folder is not None:
            manifests = _segmentation(arguments)
            classes = list(manifests["train"].classes)
            _require_number(arguments, classes)
        else:
            splits = _splits(arguments, devkit, opener, output, naming)
            classes = _checked(arguments, devkit, *(_wnids(splits, name) for name in ("train", "val")))
            words = devkit.words if devkit is not None else _words(splits)
            class_names = [words.get(wnid, wnid) for wnid in classes]
            manifests = {
                name: split.builder.build(
                    classes, class_names, stamps=split.stamps, label_order="devkit" if devkit is not None else ""
                )
                for name, split in splits.items()
            }
            if next(iter(manifests.values())).label_order == "numbers":
                notes.append(NUMBERS)
        notes += [f"{name}: {note}" for name, split in splits.items() for note in split.all_findings().notes()]
        notes += _overlap(manifests)
        with contextlib.ExitStack() as stack:  # all of them or, on a full disk, none
            for name, manifest in manifests.items():
                manifest.write_parquet(stack.enter_context(atomic_path(output / f"{name}.parquet", flush=False)))
            facts = stack.enter_context(atomic_path(output / "dataset.json", flush=False))
            facts.write_text(json_text(_facts(arguments, manifests, notes)), encoding="utf-8")
            naming.close()  # before the manifests take theirs: none names a tar that is not there
    for note in notes:
        print(f"index: note: {note}", file=sys.stderr)
    counts = ", ".join(f"{len(manifest):,} {name} images" for name, manifest in manifests.items())
    print(f"{arguments.dataset}: {counts} in {len(classes)} classes")


def _overlap(manifests: dict[str, Manifest]) -> list[str]:
    """A note where validation images are training images."""
    shared = compared = 0
    if "train" in manifests:
        with contextlib.suppress(CompanionError):  # what cannot be read yet, or at all, is for its reader to tell
            shared, compared = shared_images(manifests["train"], manifests["val"])
    if not shared:
        return []
    return [
        f"val: of {compared} images compared with training images of their class and size, {shared} are the same byte "
        "for byte; accuracies on them say nothing about other images"
    ]


def _require_utf8(arguments: argparse.Namespace) -> None:
    """Manifests hold whole paths as UTF-8; Linux takes any bytes for a name."""
    for path in (arguments.output, *(getattr(arguments, option) for option in _SOURCES)):
        try:
            os.path.abspath(path or "").encode()  # noqa: PTH100 - Path.resolve would follow links
        except UnicodeEncodeError:
            raise CompanionError(f"the path {path!r} is no UTF-8; rename what is odd in it, or name a link") from None


def _segmentation(arguments: argparse.Namespace) -> dict[str, Manifest]:
    from repvgg_companion.data.index.cityscapes_folder import from_cityscapes

    if others := [option for option in _SOURCES if option != "cityscapes_folder" and getattr(arguments, option)]:
        raise CompanionError(
            f"--cityscapes-folder and --{others[0].replace('_', '-')} both name images; leave one of them out"
        )
    return from_cityscapes(arguments.cityscapes_folder)


class _Opener:
    """Opens archives; one whose digest is due is read once in order, hashed and indexed in the same pass.

    That pass costs what the digest alone costs; without it only the headers are read, by seeking.
    """

    def __init__(self, record: DigestRecord, verify: bool) -> None:
        self.record, self.verify = record, verify

    def check(self, path: str) -> None:
        """Compare an archive that is no tar of images with its published MD5."""
        expected = expected_md5(path) if self.verify and Path(path).is_file() else None
        if expected is not None:
            md5 = self.record.known(path)
            if md5 is None:
                md5, stamp = md5_with_progress(path)
                self.record.keep(path, md5, stamp)
            require_match(path, md5, expected)

    def __call__(self, path: str) -> SeekSource:
        """A source whose `finish` compares the digest where one is due."""
        expected = expected_md5(path) if self.verify else None
        if expected is None:
            source = _SoughtSource(path)
            if self.verify:
                print(
                    f"index: note: no MD5 is published for a file called {Path(path).name}: it is not compared",
                    file=sys.stderr,
                )
            return source
        known = self.record.known(path)
        if known is not None:
            require_match(path, known, expected)
            return _SoughtSource(path)
        return _CheckedSource(path, expected, self.record)


class _Watched(SeekSource):
    """A source with a progress bar of the bytes that lie behind it."""

    _bar: ByteProgress | None = None

    def _watch(self, title: str) -> Callable[[int], None]:
        self._bar = ByteProgress(f"{title} of {Path(self.path).name}", self.size)
        return self._bar.__enter__()

    def close(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.__exit__(*sys.exc_info())
        super().close()


class _SoughtSource(_Watched):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._done, self._advance = 0, self._watch("index")

    def reached(self, offset: int) -> None:
        self._advance(offset - self._done)
        self._done = offset

    def finish(self) -> None:
        self.reached(self.size)
        super().finish()


class _CheckedSource(_Watched, HashedSource):
    def __init__(self, path: str, expected: str, record: DigestRecord) -> None:
        super().__init__(path)
        self._expected, self._record = expected, record
        self._progress = self._watch("index and MD5")

    def finish(self) -> None:
        super().finish()
        self._record.keep(self.path, self.md5, self.stamp)
        require_match(self.path, self.md5, self._expected)


def _splits(
    arguments: argparse.Namespace, devkit: Devkit | None, opener: _Opener, output: Path, naming: contextlib.ExitStack
) -> dict[str, Split]:
    check = partial(_checked, arguments, devkit)
    given = {
        name
        for name in (
            "train_archive",
            "val_archive",
            "zip",
            "train_folder",
            "val_folder",
            "kaggle_folder",
            "parquet_folder",
        )
        if getattr(arguments, name) is not None
    }
    if given == {"zip"} and devkit is None:
        opener.check(arguments.zip)
        train, val = from_zip(arguments.zip, output, naming, check)
    elif given == {"kaggle_folder"} and devkit is None:
        train, val = from_kaggle(arguments.kaggle_folder)
    elif given == {"parquet_folder"}:
        from repvgg_companion.data.index.parquet_shards import from_parquet

        train, val = from_parquet(arguments.parquet_folder, devkit, output, naming, check)
    elif given == {"train_folder", "val_folder"}:
        train = from_folder(arguments.train_folder, None, flat_allowed=False)
        val = from_folder(arguments.val_folder, devkit, flat_allowed=True)
    elif given == {"train_archive", "val_archive"}:
        train = train_from_archive(arguments.train_archive, opener)
        val = val_from_archive(arguments.val_archive, devkit, opener)
    elif given == {"val_archive"} and devkit is not None:
        return {"val": val_from_archive(arguments.val_archive, devkit, opener)}
    else:
        options = ", ".join("--" + name.replace("_", "-") for name in sorted(given)) or "no images"
        raise CompanionError(f"{options} given; name the images by {' '.join(FORMS.split())}")
    return {"train": train, "val": val}


def _wnids(splits: dict[str, Split], name: str) -> list[str] | None:
    return splits[name].builder.classes if name in splits else None


def _words(splits: dict[str, Split]) -> dict[str, str]:
    return {wnid: text for split in splits.values() for wnid, text in split.words.items()}


def _checked(
    arguments: argparse.Namespace, devkit: Devkit | None, train: Collection[str] | None, val: Collection[str]
) -> list[str]:
    """The WNIDs in label order; raises CompanionError where splits, devkit and --num-classes disagree on them."""
    classes = devkit.wnids if train is None else in_label_order(train)
    if devkit is not None and classes != devkit.wnids:
        odd = min(set(classes) ^ set(devkit.wnids))
        side = "the devkit but not in the training images" if odd in devkit.words else "the training images only"
        raise CompanionError(
            f"the devkit {devkit.path} does not match the training images: {len(devkit.words)} classes against "
            f"{len(classes)}, class {odd} is in {side}; name the devkit of these images"
        )
    if strangers := sorted(set(val) - set(classes)):
        raise CompanionError(
            f"validation class {strangers[0]} is no class of the training images; the two splits do not belong together"
        )
    _require_number(arguments, classes)
    return classes


def _require_number(arguments: argparse.Namespace, classes: list[str]) -> None:
    if arguments.num_classes not in (None, len(classes)):
        raise CompanionError(
            f"dataset {arguments.dataset} has {len(classes)} classes instead of {arguments.num_classes}; "
            "correct --num-classes (data.num_classes) or name other images"
        )


def _facts(arguments: argparse.Namespace, manifests: dict[str, Manifest], notes: list[str]) -> dict[str, Any]:
    some = next(iter(manifests.values()))
    return {
        "dataset": arguments.dataset,
        "dataset_sha256": dataset_sha256(*manifests.values()),
        "num_classes": some.num_classes,
        **{name: {"n_images": len(manifest), "sha256": manifest.sha256} for name, manifest in manifests.items()},
        "sources": [str(getattr(arguments, option)) for option in _SOURCES if getattr(arguments, option) is not None],
        "label_order": some.label_order,
        "wnids": some.classes,
        "class_names": some.class_names,
        "notes": notes,
    }
