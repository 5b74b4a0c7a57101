"""The splits of a dataset from tars, folders and Kaggle's layout."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from repvgg_companion.data.images import Folders, Image, whole_paths
from repvgg_companion.data.index import classes
from repvgg_companion.data.index.devkit import Devkit
from repvgg_companion.data.index.findings import Findings
from repvgg_companion.data.index.folder_images import images_of_folder
from repvgg_companion.data.index.source import SeekSource, require_folder
from repvgg_companion.data.index.split import Split
from repvgg_companion.data.index.tar_images import images_of_tar
from repvgg_companion.errors import CompanionError

KAGGLE = "ILSVRC/Data/CLS-LOC"
Opener = Callable[[str], SeekSource]
SOLUTION, SYNSETS = classes.SOLUTION, "LOC_synset_mapping.txt"


def train_from_archive(path: str, open_source: Opener) -> Split:
    """The training split from a tar of one tar per class, or from a tar of class folders."""
    split, loose = _read_tar(path, open_source)
    if loose:
        found = classes.by_folder(loose, split.findings.folders, path)
        split.add(_none_twice(found, split, path), path)
    return split.require_images(path)


def val_from_archive(path: str, open_source: Opener, devkit: Devkit | None) -> Split:
    """The validation split from a flat tar with a devkit, or from a tar of class folders or class tars."""
    split, loose = _read_tar(path, open_source)
    if loose:
        if len(split.builder):
            found = classes.by_folder(loose, split.findings.folders, path)
        else:
            found = _validation_classes(loose, devkit, split.findings, path)
        split.add(_none_twice(found, split, path), path)
    return split.require_images(path)


def _read_tar(path: str, open_source: Opener) -> tuple[Split, Folders]:
    """A split with the classes of all inner tars, and the images outside of these."""
    split = Split()
    loose: Folders = {}
    source = open_source(path)
    try:
        _add_class_tars(split, source, loose)
        source.finish()
    finally:
        source.close()
    split.stamps[source.path] = source.stamp
    _require_no_shard(loose, split.findings.labels, path)
    return split, loose


def _add_class_tars(split: Split, source: SeekSource, loose: Folders) -> None:
    for inner, images in images_of_tar(source, loose, split.findings):
        wnid = PurePosixPath(inner).stem
        named = [image if "/" not in image.path else _below_class(image, wnid) for image in images]
        if wnid in split.builder:
            split.findings.duplicates.add(inner)
        split.add([(wnid, named)], source.path)


def _below_class(image: Image, wnid: str) -> Image:
    return image._replace(path=classes.image_name(image.path.removeprefix(f"{wnid}/")))


def _none_twice(found: classes.Classes, split: Split, where: str) -> classes.Classes:
    for wnid, images in found:
        if wnid in split.builder:
            raise CompanionError(f"{where} holds class {wnid} twice, as a tar and as a folder; keep it in one of them")
        yield wnid, images


def _require_no_shard(loose: Folders, labels: list[str], where: str) -> None:
    """Raise CompanionError for a WebDataset shard: its images lie side by side, each with its label in a file.

    A file called `*.cls` is such a label. Others may also be notes beside the images of a class, or of ImageNet's
    validation set; they are taken for labels where all images lie in one folder.
    """
    for label in labels:
        folder, _, name = label.rpartition("/")
        key = name.partition(".")[0] + "."
        if folder not in loose or not (name.lower().endswith(".cls") or len(loose) == 1):
            continue
        image = next((path for path in loose[folder].each_path() if path.startswith(key)), "")
        if image and not classes.VALIDATION_NAME.fullmatch(image):
            raise CompanionError(
                f"{where} is a WebDataset shard: {label!r} holds the label of the image {image!r} beside it; shards "
                "of this kind are not read, so name the archives, folders or Parquet shards of the same images"
            )


def _validation_classes(
    folders: Folders, devkit: Devkit | None, findings: Findings, where: str, *, root_known: bool = False
) -> classes.Classes:
    if len(folders) == 1 and (devkit is not None or not root_known or "" in folders):
        if devkit is None:
            raise CompanionError(needs_devkit(where))
        return classes.flat_by_devkit(whole_paths(folders), devkit, where)
    found = classes.by_folder(folders, findings.folders, where, root_known=root_known)
    return found if devkit is None else classes.checked_against_devkit(found, devkit, where)


def needs_devkit(where: str) -> str:
    """The sentence about validation images that nothing gives labels to."""
    return (
        f"{where} holds its images without class folders, so their labels come from the devkit: name "
        "ILSVRC2012_devkit_t12.tar.gz with --devkit (data.devkit_archive); images of your own go into class folders"
    )


def train_from_folder(path: str) -> Split:
    """The training split from a folder of class folders."""
    split = _from_class_folders(path)
    _add_words(split, path)
    return split


def _from_class_folders(path: str) -> Split:
    split = Split()
    if images := images_of_folder(path, split.findings):
        split.add(classes.by_folder(images, split.findings.folders, path, root_known=True), path)
    return split.require_images(path)


def val_from_folder(path: str, devkit: Devkit | None) -> Split:
    """The validation split from class folders, or from a flat folder with a devkit or annotations."""
    split = Split()
    if images := images_of_folder(path, split.findings):
        annotations = Path(path) / "val_annotations.txt"
        if annotations.is_file():
            found = classes.flat_by_annotations(whole_paths(images), classes.text_of(annotations), path)
        else:
            found = _validation_classes(images, devkit, split.findings, path, root_known=True)
        split.add(found, path)
    _add_words(split, path)
    return split.require_images(path)


def _add_words(split: Split, path: str) -> None:
    words = Path(path).parent / "words.txt"
    if words.is_file():
        split.words = classes.words_of(classes.text_of(words))


def from_kaggle(root: str) -> dict[str, Split]:
    """The splits of Kaggle's layout: `ILSVRC/Data/CLS-LOC/{train,val}` beside `LOC_val_solution.csv`.

    Without a folder `train` there is the validation split alone.
    """
    images, solution = kaggle_places(root)
    val = Split()
    found = whole_paths(images_of_folder(images / "val", val.findings))
    val.add(classes.flat_by_solution(found, classes.text_of(solution), str(images / "val")), str(images / "val"))
    splits = {"val": val.require_images(str(images / "val"))}
    if (images / "train").is_dir():
        splits = {"train": _from_class_folders(str(images / "train")), **splits}
    words = solution.with_name(SYNSETS)
    if words.is_file():
        val.words = classes.words_of(classes.text_of(words))
    return splits


def kaggle_places(root: str) -> tuple[Path, Path]:
    """The folder of `train` and `val`, and `LOC_val_solution.csv`; raises CompanionError if one is missing."""
    top = Path(root)
    require_folder(root)
    places = [top / KAGGLE, top / KAGGLE.partition("/")[2], top]
    images = next((place for part in ("train", "val") for place in places if (place / part).is_dir()), None)
    if images is None:
        raise CompanionError(
            f"{root} holds no {KAGGLE}/train or val; name the folder that Kaggle's archive was unpacked into"
        )
    around = [top, *top.absolute().parents[:3]]
    solution = next((place / SOLUTION for place in around if (place / SOLUTION).is_file()), None)
    if solution is None:
        raise CompanionError(
            f"{root} holds no {SOLUTION}, which has the labels of the validation images and is not part of Kaggle's "
            "tar; put that file of the competition beside ILSVRC/, or name the same images with --train-folder, "
            "--val-folder and --devkit"
        )
    return images, solution
