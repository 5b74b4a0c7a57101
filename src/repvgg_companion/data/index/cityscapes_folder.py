"""The manifests of Cityscapes, from a folder that holds leftImg8bit/ and gtFine/. Imports no torch.

Each image comes with a label map. The test split has no labels and is left out.
"""

from dataclasses import replace
from pathlib import Path

from repvgg_companion.data.cityscapes import CLASSES
from repvgg_companion.data.columns import whole_file
from repvgg_companion.data.images import Image, whole_paths
from repvgg_companion.data.index.findings import Findings
from repvgg_companion.data.index.folder_images import images_of_folder
from repvgg_companion.data.index.source import require_folder
from repvgg_companion.data.manifest import Manifest, ManifestBuilder
from repvgg_companion.errors import CompanionError

IMAGE_END, MAP_END = "_leftImg8bit.png", "_gtFine_labelIds.png"
SPLITS = ("train", "val")
COMPLETE = (
    "name a folder into which leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of Cityscapes were unpacked"
)


def from_cityscapes(root: str) -> dict[str, Manifest]:
    """The manifests of train and val, each with its label maps.

    The label of an image is its map, so the column `label` holds 0. Raises CompanionError if a folder is missing,
    empty, or an image and a map do not come in pairs.
    """
    require_layout(root)
    return {split: _split(Path(root), split) for split in SPLITS}


def require_layout(root: str) -> None:
    """Raise CompanionError if a folder of Cityscapes is missing."""
    require_folder(root)
    for part in ("leftImg8bit", "gtFine"):
        for split in SPLITS:
            if not (Path(root) / part / split).is_dir():
                raise CompanionError(f"{root} holds no folder {part}/{split}; {COMPLETE}")


def _split(root: Path, split: str) -> Manifest:
    images = _by_stem(root / "leftImg8bit" / split, IMAGE_END)
    maps = _by_stem(root / "gtFine" / split, MAP_END)
    if not images:
        raise CompanionError(f"{root / 'leftImg8bit' / split} holds no image CITY/*{IMAGE_END}; {COMPLETE}")
    if missing := sorted(images.keys() - maps.keys()):
        raise CompanionError(
            f"{root / 'gtFine' / split} holds no {missing[0]}{MAP_END}, the labels of an image of leftImg8bit "
            f"({len(missing)} are missing); {COMPLETE}"
        )
    if missing := sorted(maps.keys() - images.keys()):
        raise CompanionError(
            f"{root / 'leftImg8bit' / split} holds no {missing[0]}{IMAGE_END}, whose labels are in gtFine "
            f"({len(missing)} are missing); {COMPLETE}"
        )
    built = []
    for found in (images, maps):
        builder = ManifestBuilder()
        builder.add_class(next(iter(CLASSES)), [image._replace(path=stem) for stem, image in found.items()])
        built.append(replace(builder.build(list(CLASSES), list(CLASSES)), label_order="devkit"))
    return built[0].with_maps(built[1])


def _by_stem(folder: Path, end: str) -> dict[str, Image]:
    folders = images_of_folder(str(folder), Findings())
    return {
        image.path.removesuffix(end): image._replace(file=whole_file(image.file, image.path))
        for image in whole_paths(folders)
        if image.path.endswith(end)
    }
