"""One split from one source: an archive, folder or zip in, a filled `ManifestBuilder` and the archives' stamps out."""

import contextlib
import sys
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from repvgg_companion.data.images import Folders, Image, by_own_folder, whole_paths
from repvgg_companion.data.index import classes as layouts
from repvgg_companion.data.index.devkit import Devkit
from repvgg_companion.data.index.image_tar import ImageTar
from repvgg_companion.data.index.members import (
    UNREADABLE_ZIP,
    Findings,
    ZipContent,
    images_of_folder,
    images_of_tar,
    images_of_zip,
)
from repvgg_companion.data.index.source import SeekSource
from repvgg_companion.data.manifest import ManifestBuilder
from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.progress import Progress

ZIP_TEXTS = ("wnids.txt", "words.txt", "val_annotations.txt")
Opener = Callable[[str], SeekSource]
CheckClasses = Callable[[Collection[str], Collection[str]], object]
"""Given the WNIDs of training and validation images, raises CompanionError where they are not those that are due."""


@dataclass
class Split:
    """The images of one split and where they lie; `words` are class names by WNID where the source has them."""

    builder: ManifestBuilder = field(default_factory=ManifestBuilder)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    words: dict[str, str] = field(default_factory=dict)

    def add(self, classes: layouts.Classes, where: str) -> None:
        """Add whole classes; raises CompanionError where one has no image or a name that is no UTF-8."""
        for wnid, images in classes:
            if not images:
                raise CompanionError(f"{where} has no image in class {wnid}; remove the class or complete it")
            try:
                wnid.encode()
                self.builder.add_class(wnid, images)
            except UnicodeEncodeError:
                raise CompanionError(f"{where} has a name in class {wnid!r} that is no UTF-8; rename it") from None

    def all_findings(self) -> Findings:
        """What was left out, with the duplicates that showed up when classes were put together."""
        found = self.findings
        return Findings(found.ignored, found.links, found.duplicates + self.builder.duplicates)


def train_from_archive(path: str, open_source: Opener) -> Split:
    """The training split from a tar of one tar per class, or from a tar of class folders."""
    split = Split()
    source = open_source(path)
    try:
        others = _add_class_tars(split, source)
        if others:
            split.add(_none_twice(layouts.by_folder(others, path), split, path), path)
        source.finish()
    finally:
        source.close()
    split.stamps[source.path] = source.stamp
    return _not_empty(split, path)


def _add_class_tars(split: Split, source: SeekSource) -> Folders:
    """Add the classes of all inner tars; returns the images outside of these."""
    others: Folders = {}
    for inner, images in images_of_tar(source, others, split.findings):
        wnid = PurePosixPath(inner).stem
        named = [image if "/" not in image.path else _below_class(image, wnid) for image in images]
        if not named:
            raise CompanionError(f"{source.path} holds no image in {inner}; remove that class tar or complete it")
        if wnid in split.builder:
            split.findings.duplicates.add(inner)
        split.add([(wnid, named)], source.path)
    return others


def _none_twice(classes: layouts.Classes, split: Split, where: str) -> layouts.Classes:
    for wnid, images in classes:
        if wnid in split.builder:
            raise CompanionError(f"{where} holds class {wnid} twice, as a tar and as a folder; remove one of them")
        yield wnid, images


def _below_class(image: Image, wnid: str) -> Image:
    return image._replace(path=layouts.image_name(image.path.removeprefix(f"{wnid}/")))


def val_from_archive(path: str, devkit: Devkit | None, open_source: Opener) -> Split:
    """The validation split from a flat tar with a devkit, or from a tar of class folders or class tars."""
    split = Split()
    source = open_source(path)
    try:
        others = _add_class_tars(split, source)
        source.finish()
    finally:
        source.close()
    split.stamps[source.path] = source.stamp
    if others:
        split.add(_none_twice(_validation_classes(others, devkit, path), split, path), path)
    return _not_empty(split, path)


def _validation_classes(
    folders: Folders, devkit: Devkit | None, where: str, *, root_known: bool = False
) -> layouts.Classes:
    if len(folders) == 1 and (devkit is not None or not root_known or "" in folders):
        if devkit is None:
            raise CompanionError(
                f"{where} holds its images without class folders, so their labels come from the devkit: "
                "name ILSVRC2012_devkit_t12.tar.gz with --devkit (data.devkit_archive)"
            )
        return layouts.flat_by_devkit(whole_paths(folders), devkit, where)
    classes = layouts.by_folder(folders, where, root_known=root_known)
    return classes if devkit is None else layouts.checked_against_devkit(classes, devkit, where)


def from_folder(path: str, devkit: Devkit | None, *, flat_allowed: bool) -> Split:
    """A split from a folder of class folders; for validation also a flat folder with a devkit or annotations."""
    split = Split()
    images, folders = images_of_folder(path, split.findings)
    if not images:
        return _not_empty(split, path)
    top = {folder.partition("/")[0] for folder in images}
    annotations = Path(path) / "val_annotations.txt"
    if flat_allowed and annotations.is_file():
        split.add(layouts.flat_by_annotations(whole_paths(images), layouts.text_of(annotations), path), path)
    elif flat_allowed:
        split.add(_validation_classes(images, devkit, path, root_known=True), path)
    else:
        split.add(layouts.by_folder(images, path, root_known=True), path)
    if empty := sorted(set(folders) - top):
        raise CompanionError(f"{path} has no image in class folder {empty[0]}; remove the folder or complete it")
    words = Path(path).parent / "words.txt"
    if words.is_file():
        split.words = layouts.words_of(layouts.text_of(words))
    return split


def from_kaggle(root: str) -> tuple[Split, Split]:
    """Both splits from Kaggle's layout: `ILSVRC/Data/CLS-LOC/{train,val}` beside `LOC_val_solution.csv`."""
    top = Path(root)
    images = next(
        (folder for folder in (top / "ILSVRC/Data/CLS-LOC", top / "Data/CLS-LOC", top) if (folder / "train").is_dir()),
        None,
    )
    places = [top, *top.absolute().parents[:3]]
    solution = next(
        (place / "LOC_val_solution.csv" for place in places if (place / "LOC_val_solution.csv").is_file()), None
    )
    if images is None or solution is None:
        missing = "ILSVRC/Data/CLS-LOC/train" if images is None else "LOC_val_solution.csv"
        raise CompanionError(f"{root} holds no {missing}; name the folder that the Kaggle archive was unpacked into")
    train = from_folder(str(images / "train"), None, flat_allowed=False)
    val = Split()
    found, _ = images_of_folder(images / "val", val.findings)
    val.add(
        layouts.flat_by_solution(whole_paths(found), layouts.text_of(solution), str(images / "val")),
        str(images / "val"),
    )
    words = solution.with_name("LOC_synset_mapping.txt")
    if words.is_file():
        train.words = layouts.words_of(layouts.text_of(words))
    return train, _not_empty(val, str(images / "val"))


def from_zip(path: str, output: Path, naming: contextlib.ExitStack, check: CheckClasses) -> tuple[Split, Split]:
    """Both splits from a zip in the layout of tiny-imagenet-200.zip, or with train/CLASS and val/CLASS folders.

    Members that are stored are indexed where they lie; compressed ones are copied into `output`/SPLIT.tar, after
    `check` has seen the classes. These tars take their names when `naming` is left.
    """
    findings = Findings()
    content = images_of_zip(path, ZIP_TEXTS, findings)
    parts = _by_split(content.images)
    texts = {PurePosixPath(name).name: text for name, text in content.texts.items()}
    words = layouts.words_of(texts.get("words.txt", ""))
    splits = {name: Split(stamps={content.path: content.stamp}, words=words) for name in parts}

    def classes(name: str, images: list[Image]) -> layouts.Classes:
        inside = [image._replace(path=below) for image, (_, below) in zip(images, parts[name], strict=True)]
        if name == "val" and "val_annotations.txt" in texts:
            return layouts.flat_by_annotations(inside, texts["val_annotations.txt"], path)
        return layouts.by_folder(by_own_folder(inside), f"{path}, folder {name},", root_known=True)

    # A fault in one split shows before the other one is copied.
    found_classes = {}
    for name, found in parts.items():
        if not found:
            raise CompanionError(f"{path} holds no image in a folder {name!r}; it needs train/CLASS and val")
        found_classes[name] = {wnid for wnid, _ in classes(name, [image for image, _ in found])}
    listed = set(texts.get("wnids.txt", "").split())
    if missing := sorted((listed | found_classes["val"]) - found_classes["train"]):
        raise CompanionError(
            f"{path} has no training image of class {missing[0]}, which its validation images or wnids.txt name; "
            "get it again"
        )
    check(found_classes["train"], found_classes["val"])
    for name, found in parts.items():
        images = [image for image, _ in found]
        if any(image.offset < 0 for image in images):
            with ImageTar(output / f"{name}.tar", naming) as tar:
                images = _copied(content, images, tar, name)
            splits[name].stamps = {tar.path: tar.stamp}
        splits[name].add(classes(name, images), path)
    splits["train"].findings = findings
    return splits["train"], splits["val"]


def _by_split(images: list[Image]) -> dict[str, list[tuple[Image, str]]]:
    """Images with their paths below the folder `train` or `val`, by that folder."""
    parts: dict[str, list[tuple[Image, str]]] = {"train": [], "val": []}
    for image in images:
        folders = image.path.split("/")
        for place, folder in enumerate(folders[:3]):
            if folder in parts:
                parts[folder].append((image, "/".join(folders[place + 1 :])))
                break
    return parts


def _copied(content: ZipContent, images: list[Image], tar: ImageTar, name: str) -> list[Image]:
    """The places in `tar` of images that are compressed inside the zip, with the paths that they have there."""
    total = sum(image.length for image in images)
    print(
        f"{name} images are compressed inside the zip: copying {total / 1e6:,.0f} MB once to {tar.path}",
        file=sys.stderr,
    )
    with (
        zipfile.ZipFile(content.path) as archive,
        Progress(f"copying {name} images", total=len(images), unit="images") as progress,
    ):
        placed = []
        for image in images:
            try:
                data = archive.read(content.original_names.get(image.path, image.path))
            except (*UNREADABLE_ZIP, KeyError) as error:
                raise CompanionError(
                    f"{content.path}: {image.path} cannot be read ({one_line(error)}); get it again"
                ) from None
            folder, _, base = image.path.rpartition("/")
            placed.append(tar.add(folder, base, data)._replace(path=image.path))
            progress.advance()
    return placed


def _not_empty(split: Split, where: str) -> Split:
    if not len(split.builder):
        raise CompanionError(f"{where} holds no image; check that it is the right archive or folder")
    return split
