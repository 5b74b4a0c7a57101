"""The demo's archives are ILSVRC2012's layout: torchvision's `datasets.ImageNet` reads the same images and labels."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.data.make_demo_data import IDS, WNIDS
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.files import read_json


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of the demo's archives, and that of its manifests."""
    root = tmp_path_factory.mktemp("demo")
    archives, output = root / "archives", root / "index"
    assert main(["make-demo-data", "--output", str(archives)]) == 0
    options = [
        "--train-archive",
        archives / "ILSVRC2012_img_train.tar",
        "--val-archive",
        archives / "ILSVRC2012_img_val.tar",
    ]
    options += ["--devkit", archives / "ILSVRC2012_devkit_t12.tar.gz", "--num-classes", 10]
    assert main(["index", "--dataset", "demo-digits", *map(str, options), "--output", str(output)]) == 0
    return archives, output


@pytest.mark.parametrize("split", ["train", "val"])
def test_torchvision_reads_the_same_images_and_labels_byte_for_byte(demo, split, monkeypatch, content_of):
    from torchvision.datasets import ImageNet, imagenet

    archives, output = demo
    meta = {
        key: (name, hashlib.md5((archives / name).read_bytes()).hexdigest())
        for key, (name, _) in imagenet.ARCHIVE_META.items()
    }
    monkeypatch.setattr(imagenet, "ARCHIVE_META", meta)
    theirs = ImageNet(str(archives), split)
    ours = Manifest.read(output / f"{split}.parquet")
    expected = [(Path(path).name, label, Path(path).read_bytes()) for path, label in theirs.samples]
    assert [(name, label, data) for name, _, label, data in content_of(ours)] == expected
    assert theirs.wnids == list(ours.classes)


def test_the_images_are_all_of_load_digits_with_their_true_labels(demo, content_of):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert len(digits.images) == 1797
    found = {"train": [], "val": []}
    for split, rows in found.items():
        for _, _, label, data in content_of(Manifest.read(demo[1] / f"{split}.parquet")):
            with Image.open(io.BytesIO(data)) as image:
                assert image.format == "JPEG" and image.size == (32, 32) and image.mode == "RGB"
                small = image.convert("L").resize((8, 8), Image.Resampling.BOX)
            rows.append((np.asarray(small, float).ravel(), label))
    assert (len(found["train"]), len(found["val"])) == (1501, 296)
    pixels = np.stack([row for rows in found.values() for row, _ in rows])
    labels = np.array([label for rows in found.values() for _, label in rows])
    flat = digits.images.reshape(1797, 64) * 16.0
    distances = (flat**2).sum(1)[:, None] - 2 * flat @ pixels.T + (pixels**2).sum(1)[None]
    assert (labels[distances.argmin(1)] == digits.target).mean() > 0.99
    assert np.bincount(labels).tolist() == np.bincount(digits.target).tolist()


def test_the_devkits_ids_are_not_in_wnid_order(demo):
    """label = ID - 1, a mistake often repeated, would fail on this data."""
    assert sorted(IDS) == list(range(1, 11)) and sorted(WNIDS) == WNIDS
    assert all(number - 1 != digit for digit, number in enumerate(IDS))
    assert read_json(demo[1] / "dataset.json")["class_names"][:3] == ["zero", "one", "two"]


def test_the_same_digits_give_the_same_bytes(demo, tmp_path):
    assert main(["make-demo-data", "--output", str(tmp_path)]) == 0
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz", "MD5SUMS"):
        assert (tmp_path / name).read_bytes() == (demo[0] / name).read_bytes()


def test_the_train_archive_is_a_tar_of_class_tars(demo):
    with tarfile.open(demo[0] / "ILSVRC2012_img_train.tar") as outer:
        names = outer.getnames()
        with tarfile.open(fileobj=outer.extractfile(names[0])) as inner:
            assert inner.getnames()[0] == f"{WNIDS[0]}_1.JPEG"
    assert names == [f"{wnid}.tar" for wnid in WNIDS]


def test_archives_of_the_same_names_are_not_overwritten(tmp_path, capsys):
    mine = tmp_path / "ILSVRC2012_img_val.tar"
    mine.write_bytes(b"precious")
    assert main(["make-demo-data", "--output", str(tmp_path)]) == 2
    assert f"{mine} exists and holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [mine.name] and mine.read_bytes() == b"precious"
