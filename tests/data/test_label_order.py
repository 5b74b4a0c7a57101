"""Which label number a class gets, and what the manifest says about the order."""

import data_layouts
import pytest

from repvgg_companion.data.manifest import Manifest
from repvgg_companion.files import read_json

ORDERS = {
    "wnid": ["n01440764", "n02119789", "n03255030"],
    "numbers": ["0", "1", "2", "9", "10", "11", "100"],
    "names": ["10", "9", "cat"],
}


@pytest.fixture
def tree(tmp_path):
    """Write class folders with one image each; returns the options of `index`."""

    def write(*classes: str) -> list[object]:
        for place, name in enumerate(classes):
            for split in ("train", "val"):
                path = tmp_path / split / name / "a.JPEG"
                path.parent.mkdir(parents=True)
                path.write_bytes(data_layouts.jpeg(place))
        return ["--train-folder", tmp_path / "train", "--val-folder", tmp_path / "val"]

    return write


@pytest.mark.parametrize("order", ORDERS)
def test_the_manifest_says_how_the_labels_came_about(order, tree, index):
    folder = index(*tree(*ORDERS[order]))
    manifest = Manifest.read(folder / "val.parquet")
    assert list(manifest.classes) == ORDERS[order]
    assert manifest.label_order == read_json(folder / "dataset.json")["label_order"] == order


def test_numbers_are_sorted_as_numbers_and_a_note_tells(tree, index, capsys):
    """ImageNetV2 calls its folders 0 to 999; sorted as text, nearly all of its labels would be wrong."""
    folder = index(*tree(*map(str, range(12))))
    manifest = Manifest.read(folder / "train.parquet")
    assert manifest.labels.tolist() == [int(name) for name in manifest.wnids]
    (note,) = [text for text in read_json(folder / "dataset.json")["notes"] if "numbers" in text]
    assert note in capsys.readouterr().err


def test_with_a_devkit_its_table_decides(archives, index):
    folder = index("--val-archive", archives["val"], "--devkit", archives["devkit"])
    assert Manifest.read(folder / "val.parquet").label_order == "devkit"
