"""One split from one source: an archive, folder or zip in, a filled `ManifestBuilder` and the archives' stamps out."""

import contextlib
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from repvgg_companion.data import layouts
from repvgg_companion.data.devkit import Devkit
from repvgg_companion.data.image_tar import ImageTar
from repvgg_companion.data.manifest import ManifestBuilder
from repvgg_companion.data.members import (
    UNREADABLE_ZIP,
    Findings,
    Image,
    ZipContent,
    images_of_folder,
    images_of_tar,
    images_of_zip,
)
from repvgg_companion.data.source import SeekSource
from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.progress import Progress

ZIP_TEXTS = ("wnids.txt", "words.txt", "val_annotations.txt")
Opener = Callable[[str], SeekSource]


@dataclass
class Split:
    """The images of one split and where they lie; `words` are class names by WNID where the source has them."""

    builder: ManifestBuilder = field(default_factory=ManifestBuilder)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    words: dict[str, str] = field(default_factory=dict)

    def add(self, classes: layouts.Classes, where: str) -> None:
        """Add whole classes; raises CompanionError where one has no image or a name that is no UTF-8."""
        for wnid, images in classes.items():
            if not images:
                raise CompanionError(f"{where} has no image in class {wnid}; remove the class or complete it")
            try:
                self.builder.add_class(wnid, images)
            except UnicodeEncodeError:
                raise CompanionError(f"{where} has a name in class {wnid} that is no UTF-8; rename it") from None

    def all_findings(self) -> Findings:
        """What was left out, with the duplicates that showed up when classes were put together."""
        return Findings(
            self.findings.ignored, self.findings.links, [*self.findings.duplicates, *self.builder.duplicates]
        )


def train_from_archive(path: str, open_source: Opener) -> Split:
    """The training split from a tar of one tar per class, or from a tar of class folders."""
    split = Split()
    source = open_source(path)
    try:
        others: list[Image] = []
        for inner, images in images_of_tar(source, split.findings):
            if not inner:
                others = images
                continue
            wnid = PurePosixPath(inner).stem
            named = [image if "/" not in image.path else _below_class(image, wnid) for image in images]
            if not named:
                raise CompanionError(f"{path} holds no image in {inner}; remove that class tar or complete it")
            if wnid in split.builder:
                split.findings.duplicates.append(inner)
            split.add({wnid: named}, path)
        if others:
            by_folder = layouts.by_folder(others, path)
            if both := sorted(set(by_folder) & set(split.builder.classes)):
                raise CompanionError(
                    f"{path} holds class {both[0]} twice, as a tar and as a folder; remove one of them"
                )
            split.add(by_folder, path)
        source.finish()
    finally:
        source.close()
    split.stamps[source.path] = source.stamp
    return _not_empty(split, path)


def _below_class(image: Image, wnid: str) -> Image:
    return image._replace(path=layouts.image_name(image.path.removeprefix(f"{wnid}/")))


def val_from_archive(path: str, devkit: Devkit | None, open_source: Opener) -> Split:
    """The validation split from a flat tar with a devkit, or from a tar of class folders or class tars."""
    split = Split()
    source = open_source(path)
    try:
        groups = list(images_of_tar(source, split.findings))
        source.finish()
    finally:
        source.close()
    split.stamps[source.path] = source.stamp
    inner = {PurePosixPath(name).stem: images for name, images in groups if name}
    flat = [image for name, images in groups if not name for image in images]
    if inner:
        split.add(inner, path)
    if flat:
        split.add(_validation_classes(flat, devkit, path), path)
    return _not_empty(split, path)


def _validation_classes(
    images: list[Image], devkit: Devkit | None, where: str, *, root_known: bool = False
) -> layouts.Classes:
    if layouts.is_flat(images) and (devkit is not None or not root_known or "/" not in images[0].path):
        if devkit is None:
            raise CompanionError(
                f"{where} holds its images without class folders, so their labels come from the devkit: "
                "name ILSVRC2012_devkit_t12.tar.gz with --devkit (data.devkit_archive)"
            )
        return layouts.flat_by_devkit(images, devkit, where)
    classes = layouts.by_folder(images, where, root_known=root_known)
    if devkit is not None:
        layouts.check_against_devkit(classes, devkit, where)
    return classes


def from_folder(path: str, devkit: Devkit | None, *, flat_allowed: bool) -> Split:
    """A split from a folder of class folders; for validation also a flat folder with a devkit or annotations."""
    split = Split()
    images, folders = images_of_folder(path, split.findings)
    if not images:
        return _not_empty(split, path)
    annotations = Path(path) / "val_annotations.txt"
    if flat_allowed and annotations.is_file():
        split.add(layouts.flat_by_annotations(images, layouts.text_of(annotations), path), path)
    elif flat_allowed:
        split.add(_validation_classes(images, devkit, path, root_known=True), path)
    else:
        split.add(layouts.by_folder(images, path, root_known=True), path)
    top = {image.path.partition("/")[0] for image in images if "/" in image.path}
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
    val.add(layouts.flat_by_solution(found, layouts.text_of(solution), str(images / "val")), str(images / "val"))
    words = solution.with_name("LOC_synset_mapping.txt")
    if words.is_file():
        train.words = layouts.words_of(layouts.text_of(words))
    return train, _not_empty(val, str(images / "val"))


def from_zip(path: str, output: Path) -> tuple[Split, Split]:
    """Both splits from a zip in the layout of tiny-imagenet-200.zip, or with train/CLASS and val/CLASS folders.

    Members that are stored are indexed where they lie; compressed ones are copied once into `output`/SPLIT.tar.
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
        return layouts.by_folder(inside, f"{path}, folder {name},", root_known=True)

    # A fault in one split shows before the other one is copied.
    found_classes = {}
    for name, found in parts.items():
        if not found:
            raise CompanionError(f"{path} holds no image in a folder {name!r}; it needs train/CLASS and val")
        found_classes[name] = set(classes(name, [image for image, _ in found]))
    listed = set(texts.get("wnids.txt", "").split())
    if missing := sorted((listed | found_classes["val"]) - found_classes["train"]):
        raise CompanionError(
            f"{path} has no training image of class {missing[0]}, which its validation images or wnids.txt name; "
            "get it again"
        )
    with contextlib.ExitStack() as stack:
        tars: dict[str, ImageTar] = {}
        for name, found in parts.items():
            images = [image for image, _ in found]
            if any(image.offset < 0 for image in images):
                tars[name] = stack.enter_context(ImageTar(output / f"{name}.tar"))
                images = _copied(content, images, tars[name], name)
            splits[name].add(classes(name, images), path)
    for name, tar in tars.items():
        splits[name].stamps = {tar.path: tar.stamp}
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
