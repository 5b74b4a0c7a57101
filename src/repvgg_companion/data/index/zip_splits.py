"""The splits of a dataset from one zip: Tiny-ImageNet's layout, Kaggle's, or folders train/CLASS and val/CLASS."""

import sys
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from repvgg_companion.data.images import Image, Tally, by_own_folder
from repvgg_companion.data.index import classes
from repvgg_companion.data.index.findings import Findings
from repvgg_companion.data.index.image_tar import ImageTar
from repvgg_companion.data.index.split import IndexJob, Split
from repvgg_companion.data.index.splits import SOLUTION, SYNSETS
from repvgg_companion.data.index.zip_images import ZipContent, images_of_zip, read_images
from repvgg_companion.errors import CompanionError
from repvgg_companion.progress import Progress

ANNOTATIONS = "val_annotations.txt"
TEXTS = ("wnids.txt", "words.txt", ANNOTATIONS, SOLUTION, SYNSETS)
KAGGLE_NAMES = "ILSVRC2012_val_"
"""Front of the names of ImageNet's validation images, which lie in one folder."""
FOLDERS_DEEP = 5
"""How many folders may stand above the images' classes; Kaggle's zip has ILSVRC/Data/CLS-LOC/train."""


def from_zip(path: str, job: IndexJob) -> dict[str, Split]:
    """The splits of a zip; without a folder `train` there is the validation split alone.

    Members that are stored are indexed where they lie; compressed ones are copied into `job.output`/SPLIT.tar, after
    `job.known` has seen the classes.
    """
    job.opener.check(path)
    findings = Findings(_TallyBySplit(), _TallyBySplit(), _TallyBySplit(), _TallyBySplit())
    content = images_of_zip(path, TEXTS, findings)
    zipped = _Zip(content, findings)
    found = {name: images for name in ("train", "val") if (images := zipped.images_of(name))}
    if "val" not in found:
        folders = "'val'" if found else "'train' or 'val'"
        raise CompanionError(f"{path} holds no image in a folder {folders}; it needs train/CLASS and val, or val alone")
    # A fault in one split shows before the other one is copied.
    names = {name: {wnid for wnid, _ in zipped.classes(name, images)} for name, images in found.items()}
    if "train" in found and (missing := sorted((zipped.listed | names["val"]) - names["train"])):
        raise CompanionError(
            f"{path} has no training image of class {missing[0]}, which its validation images or wnids.txt name; "
            "name an intact copy"
        )
    job.known.ordered(names.get("train"), names["val"])
    splits = {}
    for name, images in found.items():
        split = splits[name] = Split(stamps={content.path: content.stamp}, words=zipped.words)
        readable = images
        if any(image.offset < 0 for image in images):
            with ImageTar(job.output / f"{name}.tar", job.naming) as tar:
                readable = _copied(content, images, tar, name)
            split.stamps = {tar.path: tar.stamp}
        split.add(zipped.classes(name, readable), path)
    for name, split in splits.items():
        split.findings = _part(findings, {name})
    rest = _part(findings, {"", *classes.SPLIT_OF_NAME.values()} - splits.keys())
    job.notes.extend(f"outside of {' and '.join(splits)}: {note}" for note in rest.notes())
    return splits


@dataclass
class _TallyBySplit(Tally):
    """What was found in a zip by its path, counted for each split too."""

    parts: dict[str, Tally] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Count it once more."""
        super().add(text)
        self.parts.setdefault(_place(text)[0], Tally()).add(text)


def _part(findings: Findings, splits: Collection[str]) -> Findings:
    """What was found in some splits."""

    def among(tally: Tally) -> Tally:
        assert isinstance(tally, _TallyBySplit)
        return sum((part for split, part in tally.parts.items() if split in splits), Tally())

    return Findings(among(findings.others), among(findings.foreign), among(findings.links), among(findings.duplicates))


class _Zip:
    """The content of a zip, by split."""

    def __init__(self, content: ZipContent, findings: Findings) -> None:
        self.path, self.images, self.folders = content.path, content.images, findings.folders
        self.texts = {PurePosixPath(name).name: text for name, text in content.texts.items()}
        self.words = classes.words_of(self.texts.get("words.txt") or self.texts.get(SYNSETS, ""))
        self.listed = set(self.texts.get("wnids.txt", "").split())

    def images_of(self, split: str) -> list[Image]:
        return [image for image in self.images if _place(image.path)[0] == split]

    def classes(self, split: str, images: list[Image]) -> classes.Classes:
        inside = [image._replace(path=_place(image.path)[1]) for image in images]
        if split == "val" and ANNOTATIONS in self.texts:
            return classes.flat_by_annotations(inside, self.texts[ANNOTATIONS], self.path)
        if split == "val" and SOLUTION in self.texts:
            return classes.flat_by_solution(inside, self.texts[SOLUTION], self.path)
        if split == "val" and all(image.path.startswith(KAGGLE_NAMES) for image in inside):
            raise CompanionError(
                f"{self.path} holds no {SOLUTION}, which has the labels of its validation images; unpack it, put that "
                "file of the competition beside ILSVRC/, and name the folder that holds both with --kaggle-folder "
                "(data.kaggle_folder)"
            )
        seen = [below for folder in self.folders for name, below in [_place(f"{folder}/")] if name == split and below]
        where = f"{self.path}, folder {split},"
        return classes.by_folder(by_own_folder(inside), seen, where, root_known=True)


def _place(path: str) -> tuple[str, str]:
    """The split that a path belongs to, by the first folder with a split's name, and the path below that folder."""
    folders = path.split("/")[:-1]
    for place, folder in enumerate(folders[:FOLDERS_DEEP], start=1):
        if folder in classes.SPLIT_OF_NAME:
            return classes.SPLIT_OF_NAME[folder], path.split("/", place)[-1]
    return "", path


def _copied(content: ZipContent, images: list[Image], tar: ImageTar, name: str) -> list[Image]:
    """The places in `tar` of images that are compressed inside the zip, with the paths that they have there."""
    total = sum(image.length for image in images)
    print(
        f"{name} images are compressed inside the zip: copying {total / 1e6:,.0f} MB once to {tar.path}",
        file=sys.stderr,
    )
    placed = []
    with (
        zipfile.ZipFile(content.path) as archive,
        Progress(f"copying {name} images", total=len(images), unit="images") as progress,
    ):
        for image, data in read_images(archive, images):
            folder, _, base = image.path.rpartition("/")
            placed.append(tar.add(folder, base, data)._replace(path=image.path))
            progress.advance()
    return placed
