"""Cityscapes as it is unpacked: a folder with leftImg8bit/ and gtFine/ in, the manifests of both splits out. No torch.

Each image stands beside its label map, a PNG of label ids; `TRAIN_IDS` turns these into the 19 classes that are trained
and scored. The test split has no labels and is left out.
"""

from pathlib import Path

import numpy as np

from repvgg_companion.data.columns import whole_file
from repvgg_companion.data.images import Image, whole_paths
from repvgg_companion.data.manifest import Manifest, ManifestBuilder
from repvgg_companion.data.members import Findings, images_of_folder
from repvgg_companion.errors import CompanionError

# Label id of each class that counts, in the order of the train ids 0 to 18 (the dataset's own table, `labels.py`).
CLASSES: dict[str, int] = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
IGNORED = 255
"""The train id of every pixel that counts nowhere: void, and classes that are too rare."""
LARGEST_ID = 33
IMAGE_END, MAP_END = "_leftImg8bit.png", "_gtFine_labelIds.png"
SPLITS = ("train", "val")


def train_ids() -> np.ndarray:
    """The train id of each label id 0 to 255, uint8 [256]; id -1 (licence plate) is stored as 255."""
    table = np.full(256, IGNORED, np.uint8)
    for number, label_id in enumerate(CLASSES.values()):
        table[label_id] = number
    return table


def from_cityscapes(root: str) -> dict[str, Manifest]:
    """The manifests of train and val, each with its label maps.

    The label of an image is its map, so the column `label` holds 0. Raises CompanionError where a folder is missing,
    empty, or an image and a map do not come in pairs.
    """
    for part in ("leftImg8bit", "gtFine"):
        for split in SPLITS:
            if not (Path(root) / part / split).is_dir():
                raise CompanionError(
                    f"{root} holds no folder {part}/{split}; name the folder into which leftImg8bit_trainvaltest.zip "
                    "and gtFine_trainvaltest.zip of Cityscapes were unpacked"
                )
    return {split: _split(Path(root), split) for split in SPLITS}


def _split(root: Path, split: str) -> Manifest:
    images = _by_stem(root / "leftImg8bit" / split, IMAGE_END)
    maps = _by_stem(root / "gtFine" / split, MAP_END)
    if not images:
        raise CompanionError(f"{root / 'leftImg8bit' / split} holds no image CITY/*{IMAGE_END}; unpack it again")
    if missing := sorted(images.keys() - maps.keys()):
        raise CompanionError(
            f"{root / 'gtFine' / split} holds no {missing[0]}{MAP_END}, the labels of an image of leftImg8bit "
            f"({len(missing)} are missing); unpack gtFine_trainvaltest.zip there"
        )
    if missing := sorted(maps.keys() - images.keys()):
        raise CompanionError(
            f"{root / 'leftImg8bit' / split} holds no {missing[0]}{IMAGE_END}, whose labels are in gtFine "
            f"({len(missing)} are missing); unpack leftImg8bit_trainvaltest.zip there"
        )
    built = []
    for found in (images, maps):
        builder = ManifestBuilder()
        builder.add_class(next(iter(CLASSES)), [image._replace(path=stem) for stem, image in found.items()])
        built.append(builder.build(list(CLASSES), list(CLASSES)))
    return built[0].with_maps(built[1])


def _by_stem(folder: Path, end: str) -> dict[str, Image]:
    folders, _ = images_of_folder(str(folder), Findings())
    return {
        image.path.removesuffix(end): image._replace(file=whole_file(image.file, image.path))
        for image in whole_paths(folders)
        if image.path.endswith(end)
    }
