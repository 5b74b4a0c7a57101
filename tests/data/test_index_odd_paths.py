"""Paths and records that are not what they should be: a sentence that names them, or they are made again."""

import json
import os
import shutil

import data_layouts
import pytest
from data_layouts import WNIDS, tar_bytes, write_devkit

from repvgg_companion.__main__ import _Log
from repvgg_companion.data.manifest import Manifest


def test_what_is_no_file_in_place_of_an_archive(archives, refused, tmp_path):
    others = ["--val-archive", archives["val"], "--devkit", archives["devkit"]]
    assert f"{tmp_path} is a folder" in refused("index", "--dataset", "s", "--train-archive", tmp_path, *others)
    os.mkfifo(tmp_path / "pipe.tar")
    sentence = refused("index", "--dataset", "s", "--train-archive", tmp_path / "pipe.tar", *others)
    assert "pipe.tar is a device or pipe" in sentence
    assert f"{tmp_path} is a folder" in refused("index", "--dataset", "s", "--zip", tmp_path)


def test_a_folder_where_a_manifest_is_due_leaves_all_files_unwritten(archives, refused, tmp_path):
    folder = tmp_path / "index" / "train.parquet"
    folder.mkdir(parents=True)
    options = [word for key in ("train", "val") for word in (f"--{key}-archive", archives[key])]
    sentence = refused("index", "--dataset", "s", *options, "--devkit", archives["devkit"], "--no-verify")
    assert f"{folder} is a folder, but a file is to be written there" in sentence


ODD = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("what", ["root", "class", "image", "class tar", "devkit"])
def test_names_that_are_no_utf8(what, tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    options = ["--train-folder", train, "--val-folder", val]
    if what == "root":
        options[1] = shutil.copytree(train, tmp_path / ODD)
    elif what == "class":
        (train / WNIDS[0]).rename(train / ODD)
    elif what == "image":
        (train / WNIDS[0] / f"{ODD}.JPEG").write_bytes(b"x")
    elif what == "class tar":
        path = tmp_path / "odd.tar"
        path.write_bytes(tar_bytes([(f"{ODD}.tar", tar_bytes([("a.JPEG", b"x")]))]))
        options = ["--train-archive", path, "--val-archive", path]
    else:
        options += ["--devkit", write_devkit(tmp_path / f"{ODD}.tar.gz", images)]
    sentence = refused("index", "--dataset", "s", *options)
    assert "is not UTF-8" in sentence and "rename" in sentence


def test_a_log_takes_names_that_are_no_utf8(tmp_path):
    log = _Log(str(tmp_path / "logs" / "index.log"))
    with log.file:
        log.write(f"{ODD} is odd\n")
    assert (tmp_path / "logs" / "index.log").read_text() == "caf\\udce9 is odd\n"


def test_a_validation_tree_that_lacks_images_of_the_devkit(tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    devkit = write_devkit(tmp_path / "devkit.tar.gz", images)
    next(val.rglob("*00000004.JPEG")).unlink()
    sentence = refused("index", "--dataset", "s", "--train-folder", train, "--val-folder", val, "--devkit", devkit)
    assert "8 validation images" in sentence and "has 9 lines (the first difference is image 4)" in sentence


def test_one_validation_image_under_two_names(tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images, flat_val=True)
    devkit = write_devkit(tmp_path / "devkit.tar.gz", images)
    shutil.copy(val / "ILSVRC2012_val_00000002.JPEG", val / "ilsvrc2012_val_00000002.jpeg")
    sentence = refused("index", "--dataset", "s", "--train-folder", train, "--val-folder", val, "--devkit", devkit)
    assert "holds validation image 2 twice" in sentence


def test_a_shard_in_two_downloads(tmp_path, images, refused):
    folder = data_layouts.write_shards(tmp_path / "shards", images)
    (folder / "again").mkdir()
    shutil.copy(folder / "train-00000-of-00002.parquet", folder / "again")
    assert "are the same shard" in refused("index", "--dataset", "s", "--parquet-folder", folder)


@pytest.mark.parametrize("damage", ["no JSON", "a list", "no keys", "odd labels", "the manifest"])
def test_a_damaged_record_of_an_import_is_made_again(damage, tmp_path, images, index, content_of):
    options = ["--parquet-folder", data_layouts.write_shards(tmp_path / "shards", images)]
    folder = index(*options)
    record = folder / "train.import.json"
    whole = record.read_text()
    texts = {
        "no JSON": "{",
        "a list": "[]",
        "no keys": "{}",
        "odd labels": json.dumps({**json.loads(whole), "labels": 3}),
    }
    record.write_text(texts.get(damage, whole))
    if damage == "the manifest":
        (folder / "train.parquet").write_bytes(b"x")
    index(*options)
    assert content_of(Manifest.read(folder / "train.parquet")) == images.ordered_train()
    assert record.read_text() == whole


@pytest.mark.parametrize("text", ["[1]", '{"archive": 3}'])
def test_a_record_of_digests_that_is_none(text, archives, refused, tmp_path):
    record = tmp_path / "index" / "digests.json"
    record.parent.mkdir()
    record.write_text(text)
    options = [word for key in ("train", "val") for word in (f"--{key}-archive", archives[key])]
    sentence = refused("index", "--dataset", "s", *options, "--devkit", archives["devkit"])
    assert f"{record} is not a record of digests" in sentence and record.read_text() == text
