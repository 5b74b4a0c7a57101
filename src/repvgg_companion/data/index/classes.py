"""Which class each image belongs to, in every layout: class folders, or a flat validation set with a list.

Image names come out the same for every layout, so that the same images give the same manifest.
"""

import csv
import io
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from repvgg_companion.data.images import Folders, Image, ImageColumns
from repvgg_companion.data.index.devkit import Devkit
from repvgg_companion.errors import CompanionError

Classes = Iterable[tuple[str, list[Image] | ImageColumns]]
"""WNID and images of whole classes, one class after the other."""
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
SPLIT_OF_NAME = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""The split that a folder, or a file's first word, means by its name."""
SOLUTION = "LOC_val_solution.csv"


def by_folder(folders: Folders, seen: Iterable[str], where: str, *, root_known: bool = False) -> Classes:
    """Classes by the folder that names them: the first one below what all paths share. Empties `folders` as it goes.

    With `root_known` the paths start at the split's root already. `seen` are folders without images of their own.
    Raises CompanionError for images outside any class folder, and for a class folder without images.
    """
    prefix = "" if root_known else _shared_prefix(folders)
    folders_of: dict[str, list[str]] = {}
    for folder in folders:
        wnid = _class_of(folder, prefix)
        if not wnid:
            image = f"{folder}/{next(iter(folders[folder])).path}".removeprefix("/")
            raise CompanionError(in_no_class(image, where))
        folders_of.setdefault(wnid, []).append(folder)
    if found := sorted(SPLIT_OF_NAME.keys() & folders_of):
        raise CompanionError(splits_sentence(where, prefix, found, root_known=root_known))
    without = {_class_of(folder, prefix) for folder in seen if f"{folder}/".startswith(prefix)} - {"", *folders_of}
    if empty := sorted(without):
        raise CompanionError(no_image_of(empty[0], where))
    return _classes(folders, folders_of, prefix)


def _class_of(folder: str, prefix: str) -> str:
    return f"{folder}/"[len(prefix) :].partition("/")[0]


def no_image_of(wnid: str, where: str) -> str:
    """The sentence about a class without images."""
    return f"{where} holds no image in class {wnid}; complete the class, or leave it out"


def in_no_class(image: str, where: str) -> str:
    """The sentence about an image outside of the class folders."""
    return (
        f"{where} holds images in class folders and {image!r} in none, so its class is unknown; keep it elsewhere, or "
        "in the folder of its class"
    )


def splits_sentence(where: str, prefix: str, found: list[str], *, root_known: bool) -> str:
    """The sentence about folders of splits (`found`) where folders of classes are needed."""
    if prefix.endswith("Data/CLS-LOC/") and not root_known:
        return (
            f"{where} is Kaggle's archive, whose labels of the validation images are in a file of their own, "
            "LOC_val_solution.csv; unpack it, put that file beside ILSVRC/, and name the folder with --kaggle-folder"
        )
    do = "name that split's folder itself" if root_known else "pack each split into an archive of its own"
    return f"{where} holds folder {found[0]!r} instead of class folders; {do}"


def _classes(folders: Folders, folders_of: dict[str, list[str]], prefix: str) -> Classes:
    for wnid, inside in folders_of.items():
        images = []
        for folder in inside:
            below = f"{folder}/"[len(prefix) + len(wnid) + 1 :]
            # One class is spelled out at a time: a million images would take 500 MB.
            images += [image._replace(path=image_name(below + image.path)) for image in folders.pop(folder)]
        yield wnid, images


def _shared_prefix(folders: Folders) -> str:
    if len(folders) > 1:
        shared = os.path.commonpath(folders)
    else:
        only = next(iter(folders))
        shared = os.path.dirname(only.removesuffix("/images"))  # noqa: PTH120
    return shared + "/" if shared else ""


def image_name(path: str) -> str:
    """An image's name below its class folder; Tiny-ImageNet's additional folder `images` is not part of it."""
    return path.removeprefix("images/")


def flat_by_devkit(images: Iterable[Image], devkit: Devkit, where: str) -> Classes:
    """Flat validation images by the devkit's ground truth, whose line i belongs to image number i.

    Raises CompanionError unless the images are exactly numbers 1 to the number of lines.
    """
    by_number: dict[int, Image] = {}
    for image in images:
        match = VALIDATION_NAME.fullmatch(_base(image.path))
        if match is None:
            raise CompanionError(
                f"{where} holds {image.path!r}, which is not the name of a validation image "
                "(ILSVRC2012_val_00000001.JPEG)"
            )
        if int(match[1]) in by_number:
            other = by_number[int(match[1])].path
            raise CompanionError(
                f"{where} holds validation image {int(match[1])} twice, as {other} and {image.path}; "
                "only one of them can be right"
            )
        by_number[int(match[1])] = image._replace(path=_base(image.path))
    _require_all(by_number, devkit, where)
    classes: dict[str, list[Image]] = {}
    for number, wnid in enumerate(devkit.validation_wnids, start=1):
        classes.setdefault(wnid, []).append(by_number[number])
    return classes.items()


def checked_against_devkit(classes: Classes, devkit: Devkit, where: str) -> Classes:
    """The same classes; raises CompanionError if the devkit contradicts a folder, or has more numbered images."""
    numbers: set[int] = set()
    for wnid, images in classes:
        for image in images:
            match = VALIDATION_NAME.fullmatch(_base(image.path))
            if match is None:
                continue
            number = int(match[1])
            numbers.add(number)
            if not 1 <= number <= len(devkit.validation_wnids) or devkit.validation_wnids[number - 1] != wnid:
                raise CompanionError(
                    f"{where} has {image.path} in folder {wnid}, but the devkit {devkit.path} says otherwise; "
                    "one of them is not ILSVRC2012's"
                )
        yield wnid, images
    if numbers:
        _require_all(numbers, devkit, where)


def _require_all(numbers: Collection[int], devkit: Devkit, where: str) -> None:
    lines = len(devkit.validation_wnids)
    if set(numbers) != set(range(1, lines + 1)):
        odd = min(set(numbers) ^ set(range(1, lines + 1)))
        raise CompanionError(
            f"{where} holds {len(numbers)} validation images, but the ground truth of {devkit.path} has {lines} lines"
            f" (the first difference is image {odd}); they do not belong together, or one of them is incomplete"
        )


def text_of(path: Path) -> str:
    """The text of a list of images or class names; raises CompanionError if it is not UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CompanionError(f"{path} is not UTF-8 text (byte {error.start}); compare it with its source") from None


def flat_by_annotations(images: Iterable[Image], text: str, where: str) -> Classes:
    """Tiny-ImageNet's validation images by `val_annotations.txt`: lines of file, WNID and a box, split by tabs."""
    listed = [(fields[0], fields[1]) for line in text.splitlines() if len(fields := line.split("\t")) >= 2]
    return _by_list(images, dict(listed), where, "val_annotations.txt")


def flat_by_solution(images: Iterable[Image], text: str, where: str) -> Classes:
    """Kaggle's validation images by `LOC_val_solution.csv`: ImageId, and a prediction that begins with the WNID."""
    wnid_of = {}
    try:
        for row in csv.DictReader(io.StringIO(text)):
            words = (row.get("PredictionString") or "").split()
            if not row.get("ImageId") or not words:
                raise CompanionError(f"{where}: {SOLUTION} lacks ImageId or PredictionString; name an intact copy")
            wnid_of[row["ImageId"] + ".JPEG"] = words[0]
    except csv.Error as error:
        raise CompanionError(f"{where}: {SOLUTION} is not a CSV table ({error}); name an intact copy") from None
    return _by_list(images, wnid_of, where, SOLUTION)


def _by_list(images: Iterable[Image], wnid_of: dict[str, str], where: str, list_name: str) -> Classes:
    images = list(images)
    classes: dict[str, list[Image]] = {}
    missing = set(wnid_of) - {_base(image.path) for image in images}
    if missing:
        raise CompanionError(
            f"{where} lacks {len(missing)} images that {list_name} names, the first {min(missing)}; name an intact copy"
        )
    for image in images:
        wnid = wnid_of.get(_base(image.path))
        if wnid is None:
            raise CompanionError(f"{list_name} in {where} does not name {image.path}; name an intact copy")
        classes.setdefault(wnid, []).append(image._replace(path=_base(image.path)))
    return classes.items()


def words_of(text: str) -> dict[str, str]:
    """Class names by WNID from `words.txt` (split by a tab) or `LOC_synset_mapping.txt` (by a space)."""
    pairs = (re.split(r"[\t ]", line, maxsplit=1) for line in text.splitlines() if line.strip())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _base(path: str) -> str:
    return path.rpartition("/")[2]
