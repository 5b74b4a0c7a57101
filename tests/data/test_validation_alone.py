"""Validation images alone, for released weights: every form works, and says so where training images are needed."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import data_layouts
import pytest

from repvgg_companion.data.manifest import Manifest


def _archive(folder, images):
    paths = data_layouts.write_archives(folder, images)
    return ["--val-archive", paths["val"], "--devkit", paths["devkit"]]


def _archive_of_class_folders(folder, images):
    _, val = data_layouts.write_tree(folder, images)
    with tarfile.open(folder / "val.tar", "w") as archive:
        archive.add(val, arcname="val")
    return ["--val-archive", folder / "val.tar"]


def _folder(folder, images):
    return ["--val-folder", data_layouts.write_tree(folder, images)[1]]


def _flat_folder_and_devkit(folder, images):
    _, val = data_layouts.write_tree(folder, images, flat_val=True)
    return ["--val-folder", val, "--devkit", data_layouts.write_devkit(folder / "devkit.tar.gz", images)]


def _kaggle(folder, images):
    root = data_layouts.write_kaggle(folder, images)
    shutil.rmtree(root / "ILSVRC/Data/CLS-LOC/train")
    return ["--kaggle-folder", root]


def _shards(folder, images):
    data_layouts.write_shards(folder, images)
    for path in folder.glob("train-*"):
        path.unlink()
    return ["--parquet-folder", folder]


def _zip(folder, images):
    _, val = data_layouts.write_tree(folder, images)
    with zipfile.ZipFile(folder / "val.zip", "w") as archive:
        for path in val.rglob("*.JPEG"):
            archive.write(path, f"val/{path.relative_to(val)}")
    return ["--zip", folder / "val.zip"]


FORMS = [_archive, _archive_of_class_folders, _folder, _flat_folder_and_devkit, _kaggle, _shards, _zip]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__.strip("_"))
def test_validation_images_alone(form, tmp_path, images, index, refused, content_of):
    options = form(tmp_path / "images", images)
    folder = index(*options, "--num-classes", 3)
    assert content_of(Manifest.read(folder / "val.parquet")) == images.ordered_val()
    assert not (folder / "train.parquet").exists()
    sentence = refused("index", "--dataset", "s", *options, "--needs-train", output=tmp_path / "other")
    assert "validation images only" in sentence and "name the training images too" in sentence


def test_a_batch_larger_than_the_training_set_is_told_by_the_index(tmp_path, archives, index, refused):
    options = ["--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]]
    words = ["index", "--dataset", "small", *options]
    sentence = refused(*words, "--largest-batch", 13, output=tmp_path / "other")
    assert "a batch of 13 is larger than the training set of 12 images; set a smaller global_batch_size" in sentence
    assert (index(*options, "--largest-batch", 12) / "train.parquet").exists()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("shape", ["one file", "a folder of the name", "a linked folder", "many files"])
def test_shards_by_every_name_of_the_split(name, shape, tmp_path, images, index, content_of):
    shards = data_layouts.write_shards(tmp_path / "shards", images)
    target = tmp_path / "mine"
    target.mkdir()
    found = sorted(shards.glob("validation-*"))
    if shape == "many files":
        for number, path in enumerate(found):
            path.rename(target / f"{name}-{number:05d}-of-00002-0123abcd.parquet")
    elif shape == "one file":
        _joined(found, target / f"{name}.parquet")
    else:
        real = tmp_path / "elsewhere" if shape == "a linked folder" else target / name
        real.mkdir()
        for number, path in enumerate(found):
            path.rename(real / f"{number:04d}.parquet")
        if shape == "a linked folder":
            (target / name).symlink_to(real)
    hidden = target / ".cache" / "validation-00000-of-00001.parquet"
    hidden.parent.mkdir()
    hidden.write_bytes(b"not a shard")
    assert content_of(Manifest.read(index("--parquet-folder", target) / "val.parquet")) == images.ordered_val()


def _joined(paths: list[Path], target: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.concat_tables(parquet.read_table(path) for path in paths), target)


def test_two_sets_of_shards_are_not_mixed(tmp_path, images, refused):
    shards = data_layouts.write_shards(tmp_path / "shards", images)
    shutil.copy(next(shards.glob("validation-*")), shards / "val.parquet")
    assert "shards called val and validation" in refused("index", "--dataset", "s", "--parquet-folder", shards)


def test_shards_without_wnids_name_their_own_classes(tmp_path, images, index):
    """The order of the names in the metadata is that of the labels, whatever their alphabet says."""
    import json

    from pyarrow import parquet

    folder = data_layouts.write_shards(tmp_path / "shards", images, with_wnid=False)
    names = ["zebra", "ant", "monkey"]
    for path in folder.iterdir():
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
        parquet.write_table(parquet.read_table(path).replace_schema_metadata(metadata), path)
    val = Manifest.read(index("--parquet-folder", folder) / "val.parquet")
    assert list(val.classes) == names and val.label_order == "shards"
    assert val.labels.tolist() == [label for _, _, label, _ in images.ordered_val()]
