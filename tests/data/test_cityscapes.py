"""Cityscapes as a folder: images and label maps in pairs, label ids as train ids, crops that keep both together."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cityscapes_tree import COLOURS, write_tree
from PIL import Image

from repvgg_companion.__main__ import main
from repvgg_companion.data.batches.segmentation_input import SegmentationInput, crop_with_map, decode_map, whole_images
from repvgg_companion.data.cityscapes import CLASSES, IGNORED, train_ids
from repvgg_companion.data.index.cityscapes_folder import from_cityscapes
from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.data.protocols import SlidingProtocol, parse_protocol
from repvgg_companion.errors import CompanionError


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "cityscapes")


def test_label_ids_become_the_19_train_ids():
    table = train_ids()
    # From the dataset's own table of labels (labels.py), written out here a second time.
    known = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
             28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
    assert {i: int(table[i]) for i in range(256) if table[i] != IGNORED} == known
    assert next(iter(CLASSES)) == "road" and list(CLASSES)[13] == "car" and list(CLASSES)[18] == "bicycle"


def test_the_verb_indexes_pairs_and_a_manifest_comes_back_as_it_was(tree, tmp_path, capsys):
    output = tmp_path / "data"
    arguments = ["index", "--dataset", "tiny", "--cityscapes-folder", str(tree), "--output", str(output)]
    assert main([*arguments, "--num-classes", "19"]) == 0
    assert "8 train images, 4 val images in 19 classes" in capsys.readouterr().out
    manifest = Manifest.read(output / "train.parquet")
    assert len(manifest) == 8 and manifest.num_classes == 19
    for index in range(len(manifest)):
        image, ids = manifest.files[index], manifest.maps.files[index]
        assert image.removesuffix("_leftImg8bit.png").replace("leftImg8bit", "gtFine") == ids.removesuffix(
            "_gtFine_labelIds.png"
        )
        assert int(manifest.maps.lengths[index]) == Path(ids).stat().st_size
    assert main([*arguments, "--num-classes", "20"]) == 2
    assert "19 classes instead of 20" in capsys.readouterr().err


def test_the_identity_covers_the_label_maps(tree):
    before = dataset_sha256(*from_cityscapes(str(tree)).values())
    assert before == dataset_sha256(*from_cityscapes(str(tree)).values())
    path = next((tree / "gtFine" / "val").rglob("*labelIds.png"))
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(path)
    assert before != dataset_sha256(*from_cityscapes(str(tree)).values())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no gtFine", "holds no folder gtFine/train"),
        ("no map", "gtFine_labelIds.png, the labels of an image"),
        ("no image", "leftImg8bit.png, whose labels are in gtFine"),
        ("no images", "holds no image CITY/"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_sentence(tree, tmp_path, capsys, damage, message):
    if damage == "no gtFine":
        (tree / "gtFine").rename(tmp_path / "elsewhere")
    elif damage == "no map":
        next((tree / "gtFine" / "train").rglob("*labelIds.png")).unlink()
    elif damage == "no image":
        next((tree / "leftImg8bit" / "val").rglob("*.png")).unlink()
    else:
        for path in (tree / "leftImg8bit" / "train").rglob("*.png"):
            path.unlink()
    assert main(["index", "--dataset", "t", "--cityscapes-folder", str(tree), "--output", str(tmp_path / "o")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("index of ")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "o" / "train.parquet").exists()


def test_two_sources_are_refused(tree, tmp_path, capsys):
    arguments = ["--dataset", "t", "--cityscapes-folder", str(tree), "--zip", "x.zip", "--output", str(tmp_path / "o")]
    assert main(["index", *arguments]) == 2
    assert "--cityscapes-folder and --zip both name images" in capsys.readouterr().err


def colour_agrees(images, labels):
    """Whether every labelled pixel far from an edge has the colour of its class; images [n, 3, h, w]."""
    table = train_ids()
    pixels = images.permute(0, 2, 3, 1).numpy().astype(int)
    labels = labels.numpy()
    for label_id, colour in COLOURS.items():
        if table[label_id] == IGNORED:
            continue
        mine = labels == table[label_id]
        inner = mine.copy()
        for axis in (1, 2):
            for shift in (-3, -2, -1, 1, 2, 3):
                inner &= np.roll(mine, shift, axis)
        if inner.any() and np.abs(pixels[inner] - colour).max() > 40:
            return False
    return True


def test_batches_keep_images_and_maps_together_for_any_number_of_processes(tree):
    manifest = from_cityscapes(str(tree))["train"]
    options = {"input_px": 48, "augmentation": "scale-crop-flip", "seed": 3}
    batches = list(SegmentationInput(manifest, **options).batches(1, batch_size=4))
    assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 48, 48)] * 2
    assert all(colour_agrees(images, labels) for images, labels in batches)
    seen = np.unique(np.concatenate([labels.numpy().ravel() for _, labels in batches]))
    assert set(seen) <= {0, 8, 10, 13, IGNORED} and IGNORED in seen
    second = [list(SegmentationInput(manifest, **options).batches(1, batch_size=4, rank=r, world=2)) for r in (0, 1)]
    for step, (images, labels) in enumerate(batches):
        for rank in (0, 1):
            assert images[2 * rank : 2 * rank + 2].equal(second[rank][step][0])
            assert labels[2 * rank : 2 * rank + 2].equal(second[rank][step][1])
    other = list(SegmentationInput(manifest, **options).batches(2, batch_size=4))
    assert not other[0][0].equal(batches[0][0])


@pytest.mark.parametrize("scale_draw", [0.0, 1 / 3, 1.0])
@pytest.mark.parametrize("flip", [0.1, 0.9])
def test_a_crop_is_that_of_the_scaled_image(scale_draw, flip):
    """Every pixel of the map names its source column and row, so the crop can be checked against the definition."""
    width, height, px = 60, 40, 32
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width))
    image = Image.fromarray(np.stack([columns] * 3, axis=2))
    pixels, ids = crop_with_map(image, columns.copy(), px, np.array([scale_draw, 0.5, 0.4, flip]))
    scale = 0.5 + 1.5 * scale_draw
    scaled = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left = int(0.4 * max(0, scaled.width - px + 1)) if scaled.width > px else 0
    covered = ids != IGNORED
    assert covered.sum() == min(px, scaled.width) * min(px, scaled.height)
    row = px // 2
    expected = np.asarray(scaled)[scaled.height // 2, left : left + min(px, scaled.width), 0].astype(int)
    found = pixels[row][covered[row]][:, 0].astype(int)
    if flip < 0.5:
        found = found[::-1]
    assert np.abs(found - expected).max() <= 1
    own = ids[row][covered[row]].astype(int)
    assert np.abs((own[::-1] if flip < 0.5 else own) - expected).max() <= 2


def test_maps_that_are_no_label_ids_are_undecodable(tree, tmp_path):
    from repvgg_companion.data.decode import UndecodableImage, UndecodableImages

    path = next((tree / "gtFine" / "val").rglob("*labelIds.png"))
    for content, message in (
        (np.zeros((64, 96, 3), np.uint8), "mode RGB"),
        (np.full((64, 96), 77, np.uint8), "holds the id 77"),
    ):
        Image.fromarray(content).save(path)
        with pytest.raises(UndecodableImage, match=message):
            decode_map(path.read_bytes())
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(path)
    manifest = from_cityscapes(str(tree))["val"]
    with pytest.raises(CompanionError, match="10x10 pixels instead of 96x64"):
        list(whole_images(manifest))
    counted = UndecodableImages("count")
    assert sum(pair is None for pair in whole_images(manifest, undecodable=counted)) == 1 == len(counted)


def test_windows_cover_every_pixel_once_or_more():
    assert parse_protocol("slide713-pillow") == SlidingProtocol(713)
    for px in (1, 7, 65, 713):
        protocol = SlidingProtocol(px)
        for length in (1, px, px + 1, 2 * px - 1, 1024, 2048):
            starts = protocol.starts(length)
            covered = {p for start in starts for p in range(start, min(start + px, length))}
            assert covered == set(range(length)) and starts[-1] + px <= max(length, px)
    assert SlidingProtocol(713).starts(2048) == [0, 476, 952, 1335]
    with pytest.raises(CompanionError, match="not an evaluation protocol"):
        parse_protocol("slide-713")


def test_importing_the_protocols_needs_no_torch():
    code = "import sys, repvgg_companion.data.protocols, repvgg_companion.data.cityscapes as c; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
