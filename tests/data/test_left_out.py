"""What belongs to no dataset is left out by one rule, whatever form the dataset has, and counted in a note."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import data_layouts
import pytest
from data_layouts import WNIDS

from repvgg_companion.data.manifest import Manifest
from repvgg_companion.files import read_json

FOREIGN = [
    ".ipynb_checkpoints/{image}",
    "{wnid}/.ipynb_checkpoints/{image}",
    "{wnid}/@eaDir/{image}/SYNOPHOTO_THUMB_M.jpg",
    "@eaDir/{image}",
    "__MACOSX/{wnid}/._{image}",
    "$RECYCLE.BIN/{image}",
    "lost+found/",
    "Thumbs.db",
    "{wnid}/._{image}",
]


def _add_foreign(root: Path, content: bytes) -> None:
    for name in FOREIGN:
        path = root / name.format(wnid=WNIDS[1], image=f"{WNIDS[1]}_2.JPEG")
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _folders(root: Path) -> list[object]:
    return ["--train-folder", root / "train", "--val-folder", root / "val"]


def _tars(root: Path) -> list[object]:
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            archive.add(root / split, arcname=".")
    return ["--train-archive", root / "train.tar", "--val-archive", root / "val.tar"]


def _tars_of_tars(root: Path) -> list[object]:
    """As if the tree had been packed folder by folder, hidden and foreign ones too."""
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            for folder in sorted((root / split).iterdir()):
                if folder.is_dir():
                    stream = io.BytesIO()
                    with tarfile.open(fileobj=stream, mode="w") as inner:
                        inner.add(folder, arcname=".")
                    info = tarfile.TarInfo(f"{folder.name}.tar")
                    info.size = len(stream.getvalue())
                    archive.addfile(info, io.BytesIO(stream.getvalue()))
    return ["--train-archive", root / "train.tar", "--val-archive", root / "val.tar"]


def _zip(root: Path) -> list[object]:
    with zipfile.ZipFile(root / "all.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            if path.name != "all.zip":
                archive.write(path, path.relative_to(root))
    return ["--zip", root / "all.zip"]


@pytest.mark.parametrize("form", [_folders, _tars, _tars_of_tars, _zip], ids=lambda form: form.__name__.strip("_"))
def test_hidden_and_foreign_folders_are_no_classes_and_shift_no_label(form, tmp_path, images, index, content_of):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    _add_foreign(train, data_layouts.jpeg(1))
    _add_foreign(val, data_layouts.jpeg(2))
    folder = index(*form(tmp_path / "tree"))
    assert content_of(Manifest.read(folder / "train.parquet")) == images.ordered_train()
    assert content_of(Manifest.read(folder / "val.parquet")) == images.ordered_val()
    notes = [note for note in read_json(folder / "dataset.json")["notes"] if "hidden files, system files" in note]
    assert notes and all(int(note.split(": ")[1].split()[0]) >= 4 for note in notes)


def test_what_a_zip_leaves_out_is_counted_in_the_split_where_it_lies(tmp_path, images, index):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    for folder, names in (
        (train, [".a.jpg"]),
        (val, [".a.jpg", ".b.jpg", "notes.txt"]),
        (tmp_path / "tree", ["readme"]),
    ):
        for name in names:
            (folder / name).write_bytes(b"x")
    notes = read_json(index(*_zip(tmp_path / "tree")) / "dataset.json")["notes"]
    hidden = "hidden files, system files and folders of these were left out, the first"
    assert notes == [
        f"train: 1 {hidden} 'train/.a.jpg'",
        f"val: 2 {hidden} 'val/.a.jpg'",
        "val: 1 files that are not images were left out, the first 'val/notes.txt'",
        "outside of train and val: 1 files that are not images were left out, the first 'readme'",
    ]


def test_hidden_classes_of_shards_are_left_out(tmp_path, images, index, content_of):
    import json

    import pyarrow
    from pyarrow import parquet

    folder = data_layouts.write_shards(tmp_path / "shards", images, with_wnid=False)
    names = [".ipynb_checkpoints", *WNIDS]
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    for path in folder.iterdir():
        table = parquet.read_table(path)
        rows = table.to_pylist()
        rows = [{"image": row["image"], "label": row["label"] + 1} for row in rows]
        rows.append({"image": rows[0]["image"], "label": 0})
        rows.append({"image": {**rows[0]["image"], "path": "._" + rows[0]["image"]["path"]}, "label": 1})
        table = pyarrow.Table.from_pylist(rows, schema=table.schema).replace_schema_metadata(metadata)
        parquet.write_table(table, path)
    train = Manifest.read(index("--parquet-folder", folder) / "train.parquet")
    assert content_of(train) == images.ordered_train()


def test_hidden_files_beside_shards_are_left_out_and_noted(tmp_path, images, index, content_of):
    folder = data_layouts.write_shards(tmp_path / "shards", images)
    shard = sorted(folder.glob("train*.parquet"))[0]
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(shard, folder / ".ipynb_checkpoints" / shard.name)
    shutil.copy(shard, folder / f"._{shard.name}")
    output = index("--parquet-folder", folder)
    assert content_of(Manifest.read(output / "train.parquet")) == images.ordered_train()
    notes = " ".join(read_json(output / "dataset.json")["notes"])
    assert "2 hidden files, system files and folders of these were left out" in notes


@pytest.mark.parametrize("form", [_folders, _tars, _tars_of_tars, _zip], ids=lambda form: form.__name__.strip("_"))
def test_a_class_without_images_is_refused_in_every_form(form, tmp_path, images, refused):
    train, _ = data_layouts.write_tree(tmp_path / "tree", images)
    (train / "n09999999").mkdir()
    (train / "n09999999" / "notes.txt").write_text("x")
    assert "holds no image in class n09999999" in refused("index", "--dataset", "s", *form(tmp_path / "tree"))


# --- foreign forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_with_backslashes_is_read(compression, tmp_path, images, index, content_of):
    data_layouts.write_tree(tmp_path / "tree", images)
    with zipfile.ZipFile(tmp_path / "windows.zip", "w", compression) as archive:
        for path in sorted((tmp_path / "tree").rglob("*.JPEG")):
            archive.writestr(str(path.relative_to(tmp_path)).replace("/", "\\"), path.read_bytes())
    folder = index("--zip", tmp_path / "windows.zip")
    assert content_of(Manifest.read(folder / "train.parquet")) == images.ordered_train()
    assert content_of(Manifest.read(folder / "val.parquet")) == images.ordered_val()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_kaggles_own_zip_is_read_as_it_is(compression, tmp_path, images, index, content_of):
    root = data_layouts.write_kaggle(tmp_path / "kaggle", images)
    with zipfile.ZipFile(tmp_path / "imagenet-object-localization-challenge.zip", "w", compression) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root))
    folder = index("--zip", tmp_path / "imagenet-object-localization-challenge.zip")
    assert content_of(Manifest.read(folder / "train.parquet")) == images.ordered_train()
    assert content_of(Manifest.read(folder / "val.parquet")) == images.ordered_val()
    assert read_json(folder / "dataset.json")["class_names"] == [data_layouts.WORDS[wnid] for wnid in WNIDS]


def test_kaggles_zip_without_its_solution_says_what_it_lacks(tmp_path, images, refused):
    root = data_layouts.write_kaggle(tmp_path / "kaggle", images)
    (root / "LOC_val_solution.csv").unlink()
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root))
    sentence = refused("index", "--dataset", "s", "--zip", tmp_path / "kaggle.zip")
    assert "holds no LOC_val_solution.csv" in sentence and "--kaggle-folder" in sentence


def test_kaggles_tar_lacks_the_solution_and_the_sentence_says_so(tmp_path, images, refused):
    root = data_layouts.write_kaggle(tmp_path / "kaggle", images)
    with tarfile.open(tmp_path / "kaggle.tar", "w") as archive:
        archive.add(root / "ILSVRC", arcname="ILSVRC")
    options = ["--train-archive", tmp_path / "kaggle.tar", "--val-archive", tmp_path / "kaggle.tar"]
    sentence = refused("index", "--dataset", "s", *options)
    assert "is Kaggle's archive" in sentence and "LOC_val_solution.csv" in sentence and "--kaggle-folder" in sentence
    (root / "LOC_val_solution.csv").unlink()
    sentence = refused("index", "--dataset", "s", "--kaggle-folder", root)
    assert "is not part of Kaggle's tar" in sentence and "--devkit" in sentence


def test_images_under_the_wrong_option_come_with_the_right_one(tmp_path, images, refused):
    """A folder that is a file is not called missing."""
    archives = data_layouts.write_archives(tmp_path / "archives", images)
    zipped = data_layouts.write_zip(tmp_path / "tiny.zip", images)
    shards = data_layouts.write_shards(tmp_path / "shards", images)
    shard = min(shards.glob("validation*"))
    for option, path, said in (
        ("--val-archive", zipped, "is not a tar archive (it begins with b'PK"),
        ("--val-archive", zipped, "name a zip with --zip (data.zip)"),
        ("--val-archive", shard, "with --parquet-folder (data.parquet_folder)"),
        ("--val-folder", zipped, "is a file instead of a folder; name a zip with --zip"),
        ("--val-folder", archives["val"], "is a file instead of a folder; extract it and name the folders"),
        ("--val-folder", shards, "with --parquet-folder (data.parquet_folder)"),
        ("--kaggle-folder", zipped, "is a file instead of a folder; name a zip with --zip"),
        ("--parquet-folder", shard, "is a file instead of a folder; name the folder of all Parquet shards"),
        ("--cityscapes-folder", archives["train"], "is a file instead of a folder"),
        ("--kaggle-folder", tmp_path / "nowhere", "does not exist"),
        ("--parquet-folder", tmp_path / "nowhere", "does not exist"),
    ):
        assert said in refused("index", "--dataset", "s", option, path)


def test_a_tar_in_place_of_a_zip_is_called_a_tar(tmp_path, images, refused):
    data_layouts.write_tree(tmp_path / "tree", images)
    _tars(tmp_path / "tree")
    sentence = refused("index", "--dataset", "s", "--zip", tmp_path / "tree/val.tar")
    assert "is a tar, not a zip; extract it and name the folders" in sentence and "--val-archive" in sentence


@pytest.mark.parametrize(
    "ends", [("jpg", "cls", "json"), ("jpeg", "json"), ("png", "label.txt"), ("image.webp", "index")]
)
def test_a_webdataset_shard_is_called_what_it_is(ends, tmp_path, refused):
    path = tmp_path / "imagenet1k-train-0000.tar"
    members = [(f"{number:06d}.{end}", b"x") for number in range(3) for end in ends]
    path.write_bytes(data_layouts.tar_bytes(members))
    for options in (["--train-archive", path, "--val-archive", path], ["--val-archive", path]):
        assert "is a WebDataset shard" in refused("index", "--dataset", "s", *options)


# --- links ---------------------------------------------------------------------------------------------------------


def _linked(tmp_path: Path, images: data_layouts.Images) -> Path:
    """A link to a link to an image, a link to a file without an image's name, and a class that is a link."""
    train, _ = data_layouts.write_tree(tmp_path / "tree", images)
    first = train / WNIDS[0]
    (train / "blobs.txt").mkdir()
    blob = train / "n09999999" / "blob"
    blob.parent.mkdir()
    shutil.copy(first / f"{WNIDS[0]}_2.JPEG", blob)
    shutil.rmtree(train / "blobs.txt")
    (train / "n09999999" / "b.JPEG").symlink_to("blob")
    (train / "n09999999" / "a.JPEG").symlink_to("b.JPEG")
    (train / "n09999998").symlink_to(WNIDS[1])
    return tmp_path / "tree"


def _zip_with_links(root: Path) -> list[object]:
    with zipfile.ZipFile(root / "all.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                archive.writestr(info, str(path.readlink()))
            elif path.is_file() and path.name != "all.zip":
                archive.write(path, name)
    return ["--zip", root / "all.zip"]


def test_links_in_archives_are_what_they_are_when_extracted(tmp_path, images, index):
    root = _linked(tmp_path, images)
    expected = Manifest.read(index(*_folders(root)) / "train.parquet")
    assert list(expected.names[-2:]) == ["a.JPEG", "b.JPEG"] and expected.num_classes == 5
    for form in (_tars, _zip_with_links):
        assert Manifest.read(index(*form(root)) / "train.parquet").sha256 == expected.sha256


# --- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [_folders, _tars, _zip], ids=lambda form: form.__name__.strip("_"))
def test_a_project_that_was_moved_finds_its_images(form, tmp_path, images, monkeypatch, content_of):
    """Paths were given relative to the project; the manifest holds absolute ones, which are gone."""
    from repvgg_companion.__main__ import main

    before, after = tmp_path / "before", tmp_path / "after"
    data_layouts.write_tree(before / "tree", images)
    monkeypatch.chdir(before)
    assert main(["index", "--dataset", "s", "--output", "out", *map(str, form(Path("tree")))]) == 0
    monkeypatch.chdir(tmp_path)
    before.rename(after)
    monkeypatch.chdir(after)
    assert content_of(Manifest.read("out/train.parquet")) == images.ordered_train()


def test_images_that_are_gone_come_with_the_command_for_their_new_place(tmp_path, images, index):
    from repvgg_companion.data.reader import ImageReader
    from repvgg_companion.errors import CompanionError

    data_layouts.write_tree(tmp_path / "tree", images)
    folder = index(*_tars(tmp_path / "tree"))
    (tmp_path / "tree").rename(tmp_path / "moved")
    with pytest.raises(CompanionError, match=r"with the new path: python -m repvgg_companion index .*val\.tar"):
        ImageReader(Manifest.read(folder / "train.parquet")).read(0)


def test_a_home_folder_in_a_path(tmp_path, images, index, monkeypatch):
    data_layouts.write_tree(tmp_path / "tree", images)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Manifest.read(index("--val-folder", "~/tree/val") / "val.parquet")) == 9


def test_names_that_the_terminal_cannot_show(tmp_path, images):
    import os
    import subprocess
    import sys

    train, val = data_layouts.write_tree(tmp_path / "Bücher", images)
    (train / WNIDS[0]).rename(train / "Äpfel")
    (val / WNIDS[0]).rename(val / "Äpfel")
    (train / "Äpfel" / "ü.txt").write_text("x")
    words = [
        "--dataset",
        "süß",
        "--output",
        str(tmp_path / "aus"),
        "--train-folder",
        str(train),
        "--val-folder",
        str(val),
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-m", "repvgg_companion", "index", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and "12 train images" in done.stdout, done.stderr
