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


def _index_with_labels(tree, index, tmp_path, lines: str, *classes: str) -> Manifest:
    (tmp_path / "labels.txt").write_text(lines)
    folder = index(*tree(*classes), "--labels", tmp_path / "labels.txt")
    manifest = Manifest.read(folder / "val.parquet")
    assert manifest.label_order == read_json(folder / "dataset.json")["label_order"] == "labels-file"
    return manifest


FORMS = {
    "names alone": ("# in the order of the labels\nwolf\ncat\n\nant\n", ["wolf", "cat", "ant"]),
    "names and labels": ("ant 2\ncat\t1\nwolf, 0\n", ["wolf", "cat", "ant"]),
    "names and WNIDs": ("ant n00000003\ncat n00000002\nwolf n00000001\n", ["n00000001", "n00000002", "n00000003"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_labels_file_numbers_the_classes(form, tree, index, tmp_path):
    lines, classes = FORMS[form]
    manifest = _index_with_labels(tree, index, tmp_path, lines, "ant", "cat", "wolf")
    assert list(manifest.classes) == classes
    assert [manifest.files[place].split("/")[-2] for place in range(3)] == ["wolf", "cat", "ant"]


def test_a_labels_file_may_name_more_classes_than_there_are_folders(tree, index, tmp_path):
    """So weights with 1000 classes are evaluated on the images of some of them."""
    manifest = _index_with_labels(tree, index, tmp_path, "\n".join(f"class {n} {n}" for n in range(5)), "class 3")
    assert manifest.num_classes == 5 and manifest.labels.tolist() == [3]
    assert "4 of 5 classes have no image (class 0, class 1, class 2, …)" in str(
        read_json(tmp_path / "index/dataset.json")["notes"]
    )


def test_folders_with_wnids_in_a_labels_file_are_the_dataset_of_these_wnids(tree, index, tmp_path):
    mapped = _index_with_labels(tree, index, tmp_path, "0 n00000002\n1 n00000001\n", "0", "1")
    for split in ("train", "val"):
        for name, wnid in (("0", "n00000002"), ("1", "n00000001")):
            (tmp_path / split / name).rename(tmp_path / split / wnid)
    options = ["--train-folder", tmp_path / "train", "--val-folder", tmp_path / "val"]
    assert Manifest.read(index(*options) / "val.parquet").sha256 == mapped.sha256


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "names no class"),
        ("ant\n", "does not name 'cat'"),
        ("ant 0\ncat 2\n", "gives label 1 to no class"),
        ("ant 0\ncat 0\n", "names '0' in line 1 and in line 2"),
        ("ant 0\ncat one\n", "has another form in line 2 than in line 1"),
        ("ant\ncat\nant\n", "names 'ant' in line 1 and in line 3"),
    ],
)
def test_labels_files_that_are_wrong(lines, words, tree, tmp_path, refused):
    (tmp_path / "labels.txt").write_text(lines)
    sentence = refused("index", "--dataset", "s", *tree("ant", "cat"), "--labels", tmp_path / "labels.txt")
    assert words in sentence and "labels.txt" in sentence


def test_a_labels_file_and_a_devkit_are_one_too_many(archives, refused, tmp_path):
    options = ["--val-archive", archives["val"], "--devkit", archives["devkit"], "--labels", tmp_path / "none.txt"]
    assert "--devkit and --labels both number" in refused("index", "--dataset", "s", *options)
