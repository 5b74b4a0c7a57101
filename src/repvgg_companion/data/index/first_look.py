"""What can be refused of a dataset's files and folders before they are indexed, in the words of `index`.

Only the first bytes of archives are read, and only the top of folders; the rest is found by `index`.
"""

import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from repvgg_companion.data.index import classes
from repvgg_companion.data.index.cityscapes_folder import require_layout
from repvgg_companion.data.index.devkit import NEEDED
from repvgg_companion.data.index.findings import IMAGE_SUFFIXES, is_foreign
from repvgg_companion.data.index.known_classes import KnownClasses
from repvgg_companion.data.index.labels_file import read_labels
from repvgg_companion.data.index.parquet_shards import shards_by_split
from repvgg_companion.data.index.source import TAR_WAY, SeekSource, require_folder
from repvgg_companion.data.index.splits import kaggle_places, needs_devkit
from repvgg_companion.data.index.tar_members import tar_members
from repvgg_companion.errors import CompanionError


def look_at(key: str, path: str) -> None:
    """Raise CompanionError if the path that a key of `data` names is a file or folder of another kind."""
    try:
        LOOKS[key](path)
    except OSError as error:
        raise CompanionError(f"{path} cannot be read: {error.strerror}; check its permissions") from None


def look_at_classes(known: KnownClasses, train_folder: str | None, val_folder: str | None, *, devkit: bool) -> None:
    """Raise CompanionError if the class folders at the top of these folders contradict each other or `known`.

    With a `devkit` validation images need no class folders.
    """
    train = None if train_folder is None else class_folders(train_folder)
    listed = val_folder is None or devkit or (Path(val_folder) / "val_annotations.txt").is_file()
    val = None if listed or val_folder is None else class_folders(val_folder, flat=needs_devkit)
    if train is not None or val is not None:
        known.ordered(train, val if val is not None else train or ())


def class_folders(path: str, flat: Callable[[str], str] | None = None) -> list[str]:
    """The folders at the top of a folder, each of which is a class; raises CompanionError for another layout.

    `flat` gives the sentence about images that lie side by side without such folders.
    """
    folders, images = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_foreign(entry.name):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                images.append(entry.name)
    if images and flat is not None and not folders:
        raise CompanionError(flat(path))
    if images:
        raise CompanionError(classes.in_no_class(min(images), path))
    if found := sorted(classes.SPLIT_OF_NAME.keys() & folders):
        raise CompanionError(classes.splits_sentence(path, "", found, root_known=True))
    if not folders:
        raise CompanionError(f"{path} holds no class folders; put the images of each class into a folder of its own")
    return folders


def _tar(path: str) -> None:
    source = SeekSource(path)
    try:
        next(tar_members(source, 0, source.size), None)
    finally:
        source.close()


def _zip(path: str) -> None:
    SeekSource(path).close()
    if not zipfile.is_zipfile(path):
        what = f"is a tar, not a zip; {TAR_WAY}" if tarfile.is_tarfile(path) else "is not a zip; name an intact copy"
        raise CompanionError(f"{path} {what}")


def _compressed_tar(path: str) -> None:
    SeekSource(path).close()
    if not tarfile.is_tarfile(path):
        raise CompanionError(f"{path} is not a tar archive; name cifar-10-binary.tar.gz or cifar-100-binary.tar.gz")


def _devkit(path: str) -> None:
    if not Path(path).is_dir() and not tarfile.is_tarfile(path):
        raise CompanionError(f"{path} is not a tar archive; {NEEDED} is needed")


LOOKS: dict[str, Callable[[str], object]] = {
    "train_archive": _tar,
    "val_archive": _tar,
    "devkit_archive": _devkit,
    "zip": _zip,
    "train_folder": require_folder,
    "val_folder": require_folder,
    "kaggle_folder": kaggle_places,
    "parquet_folder": lambda path: shards_by_split(path, {}),
    "cifar_archive": _compressed_tar,
    "cityscapes_folder": require_layout,
    "labels": read_labels,
}
"""What looks at the path of each key."""
