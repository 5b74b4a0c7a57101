"""Every layout gives the same manifests, and torchvision's and timm's readers agree with each of them."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import data_layouts
import pytest
from data_layouts import WNIDS, WORDS

from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.files import read_json


def _splits(folder: Path) -> tuple[Manifest, Manifest]:
    return Manifest.read(folder / "train.parquet"), Manifest.read(folder / "val.parquet")


def _archives(tmp_path, images):
    paths = data_layouts.write_archives(tmp_path / "archives", images)
    return ["--train-archive", paths["train"], "--val-archive", paths["val"], "--devkit", paths["devkit"]]


def _pax_archives(tmp_path, images):
    paths = data_layouts.write_archives(tmp_path / "archives", images, tarfile.PAX_FORMAT)
    return ["--train-archive", paths["train"], "--val-archive", paths["val"], "--devkit", paths["devkit"]]


def _extracted_devkit(tmp_path, images):
    paths = data_layouts.write_archives(tmp_path / "archives", images)
    with tarfile.open(paths["devkit"]) as archive:
        archive.extractall(tmp_path / "devkit")
    return ["--train-archive", paths["train"], "--val-archive", paths["val"], "--devkit", tmp_path / "devkit"]


def _tree_tars(tmp_path, images):
    """Users also pack the extracted tree again: tars of class folders under a common folder, with ./ in front."""
    for split, root in zip(("train", "val"), data_layouts.write_tree(tmp_path / "tree", images)):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            archive.add(root, arcname=f"./imagenet/{split}")
    return ["--train-archive", tmp_path / "train.tar", "--val-archive", tmp_path / "val.tar"]


def _tree(tmp_path, images):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    return ["--train-folder", train, "--val-folder", val]


def _tree_and_devkit(tmp_path, images):
    devkit = data_layouts.write_devkit(tmp_path / "devkit.tar.gz", images)
    return [*_tree(tmp_path, images), "--devkit", devkit]


def _flat_val_and_devkit(tmp_path, images):
    train, val = data_layouts.write_tree(tmp_path / "tree", images, flat_val=True)
    devkit = data_layouts.write_devkit(tmp_path / "devkit.tar.gz", images)
    return ["--train-folder", train, "--val-folder", val, "--devkit", devkit]


def _linked_tree(tmp_path, images):
    """Clusters hold one tree and users link to it: the split, one class, and one image are links here."""
    train, val = data_layouts.write_tree(tmp_path / "real", images)
    (tmp_path / "links").mkdir()
    moved = tmp_path / "elsewhere" / WNIDS[1]
    moved.parent.mkdir()
    (train / WNIDS[1]).rename(moved)
    (train / WNIDS[1]).symlink_to(moved)
    image = train / WNIDS[0] / f"{WNIDS[0]}_2.JPEG"
    image.rename(tmp_path / "elsewhere" / "image")
    image.symlink_to(tmp_path / "elsewhere" / "image")
    (tmp_path / "links" / "train").symlink_to(train)
    return ["--train-folder", tmp_path / "links" / "train", "--val-folder", val]


def _kaggle(tmp_path, images):
    return ["--kaggle-folder", data_layouts.write_kaggle(tmp_path / "kaggle", images)]


def _kaggle_inner(tmp_path, images):
    return ["--kaggle-folder", data_layouts.write_kaggle(tmp_path / "kaggle", images) / "ILSVRC"]


def _shards(tmp_path, images):
    return ["--parquet-folder", data_layouts.write_shards(tmp_path / "shards" / "data", images).parent]


def _shards_without_wnids(tmp_path, images):
    devkit = data_layouts.write_devkit(tmp_path / "devkit.tar.gz", images)
    return ["--parquet-folder", data_layouts.write_shards(tmp_path / "s", images, with_wnid=False), "--devkit", devkit]


def _zip(tmp_path, images):
    return ["--zip", data_layouts.write_zip(tmp_path / "tiny.zip", images)]


def _deflated_zip(tmp_path, images):
    return ["--zip", data_layouts.write_zip(tmp_path / "tiny.zip", images, compression=zipfile.ZIP_DEFLATED)]


def _zip_of_a_tree(tmp_path, images):
    data_layouts.write_tree(tmp_path / "tree", images)
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
        for path in sorted((tmp_path / "tree").rglob("*.JPEG"), reverse=True):
            archive.write(path, path.relative_to(tmp_path))
    return ["--zip", tmp_path / "tree.zip"]


def _unzipped(tmp_path, images):
    """tiny-imagenet-200.zip unpacked: class folders with a folder `images` inside, a flat val with annotations."""
    with zipfile.ZipFile(data_layouts.write_zip(tmp_path / "tiny.zip", images)) as archive:
        archive.extractall(tmp_path)
    root = tmp_path / "tiny-imagenet-200"
    return ["--train-folder", root / "train", "--val-folder", root / "val"]


LAYOUTS = [
    _archives,
    _pax_archives,
    _extracted_devkit,
    _tree_tars,
    _tree,
    _tree_and_devkit,
    _flat_val_and_devkit,
    _linked_tree,
    _kaggle,
    _kaggle_inner,
    _shards,
    _shards_without_wnids,
    _zip,
    _deflated_zip,
    _zip_of_a_tree,
    _unzipped,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__.strip("_"))
def test_every_layout_gives_the_same_images_labels_order_and_digest(layout, tmp_path, images, index, content_of):
    folder = index(*layout(tmp_path, images), "--num-classes", 3)
    train, val = _splits(folder)
    assert content_of(train) == images.ordered_train()
    assert content_of(val) == images.ordered_val()
    rows = images.ordered_train()
    lines = "".join(f"{name}\t{label}\t{wnid}\t{len(data)}\n" for name, wnid, label, data in rows)
    assert train.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    facts = read_json(folder / "dataset.json")
    assert facts["dataset_sha256"] == dataset_sha256(train, val)
    assert facts["wnids"] == WNIDS == list(train.classes)
    assert facts["train"] == {"n_images": 12, "sha256": train.sha256}


@pytest.mark.parametrize("layout", [_archives, _tree, _flat_val_and_devkit, _kaggle, _shards, _zip, _deflated_zip])
def test_chosen_classes_are_the_same_images_as_a_set_of_these_classes_alone(
    layout, tmp_path, images, index, content_of
):
    kept = [WNIDS[2], WNIDS[0]]  # the order that they are named in has no meaning
    folder = index(*layout(tmp_path, images), "--num-classes", 2, "--classes", *kept)
    alone = data_layouts.Images({wnid: images.train[wnid] for wnid in sorted(kept)}, {})
    alone.val = {name: row for name, row in images.val.items() if row[0] in kept}
    (tmp_path / "alone").mkdir()
    small = index(*_tree(tmp_path / "alone", alone), output=tmp_path / "small")
    for manifest, expected in zip(_splits(folder), _splits(small), strict=True):
        assert (manifest.sha256, manifest.classes) == (expected.sha256, expected.classes)
        assert content_of(manifest) == content_of(expected)
    assert _splits(folder)[0].origin.options[-3:] == ("--classes", *kept)


@pytest.mark.parametrize("layout", [_archives, _kaggle, _shards, _zip, _flat_val_and_devkit])
def test_class_names_come_from_wherever_the_layout_has_them(layout, tmp_path, images, index):
    folder = index(*layout(tmp_path, images))
    assert read_json(folder / "dataset.json")["class_names"] == [WORDS[wnid] for wnid in WNIDS]


def test_a_validation_archive_and_the_devkit_are_enough_for_released_weights(archives, images, index, content_of):
    folder = index("--val-archive", archives["val"], "--devkit", archives["devkit"])
    assert content_of(Manifest.read(folder / "val.parquet")) == images.ordered_val()
    facts = read_json(folder / "dataset.json")
    assert not (folder / "train.parquet").exists() and "train" not in facts
    assert facts["num_classes"] == 3


def test_the_same_archives_give_the_same_bytes(archives, index, tmp_path):
    options = ["--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]]
    first = index(*options)
    second = index(*options, output=tmp_path / "again")
    for name in ("train.parquet", "val.parquet", "dataset.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_parquet_has_the_columns_of_the_contract(archives, index):
    from pyarrow import parquet

    folder = index(
        "--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]
    )
    table = parquet.read_table(folder / "train.parquet").to_pydict()
    assert list(table) == ["file", "offset", "length", "label", "wnid", "name"]
    with archives["train"].open("rb") as stream:
        stream.seek(table["offset"][5])
        assert stream.read(table["length"][5]).startswith(b"\xff\xd8\xff")


def test_at_most_five_files_are_created_and_nothing_is_extracted(archives, index):
    folder = index(
        "--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]
    )
    files = sorted(path.name for path in folder.rglob("*"))
    assert files == ["dataset.json", "digests.json", "train.parquet", "val.parquet"]


def _torchvision_imagenet(root: Path, split: str, monkeypatch):
    from torchvision.datasets import ImageNet, imagenet

    meta = {
        key: (name, hashlib.md5((root / name).read_bytes()).hexdigest())
        for key, (name, _) in imagenet.ARCHIVE_META.items()
    }
    monkeypatch.setattr(imagenet, "ARCHIVE_META", meta)
    return ImageNet(str(root), split)


def _samples(samples: list[tuple[str, int]]) -> list[tuple[str, int, bytes]]:
    return [(Path(path).name, label, Path(path).read_bytes()) for path, label in samples]


def _ours(manifest: Manifest, content_of) -> list[tuple[str, int, bytes]]:
    return [(name, label, data) for name, _, label, data in content_of(manifest)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_torchvision_imagenet_reads_the_same_from_the_archives(split, archives, index, content_of, monkeypatch):
    folder = index(
        "--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]
    )
    theirs = _torchvision_imagenet(archives["train"].parent, split, monkeypatch)
    ours = Manifest.read(folder / f"{split}.parquet")
    assert _ours(ours, content_of) == _samples(theirs.samples)
    assert list(ours.classes) == theirs.wnids
    assert [tuple(words.split(", ")) for words in ours.class_names] == theirs.classes


@pytest.mark.parametrize("layout", [_tree, _linked_tree, _kaggle], ids=lambda layout: layout.__name__.strip("_"))
def test_image_folder_and_timm_read_the_same_from_folders(layout, tmp_path, images, index, content_of):
    from timm.data import create_dataset
    from torchvision.datasets import ImageFolder

    options = layout(tmp_path, images)
    train, val = _splits(index(*options))
    root = options[1] if options[0] == "--train-folder" else options[1] / "ILSVRC/Data/CLS-LOC/train"
    theirs = ImageFolder(str(root))
    assert _ours(train, content_of) == _samples(theirs.samples)
    timm_samples = create_dataset("", root=str(root)).reader.samples
    assert sorted(_ours(train, content_of)) == sorted(_samples(timm_samples))
    if options[0] == "--train-folder":
        assert _ours(val, content_of) == _samples(ImageFolder(str(options[3])).samples)


def test_timm_reads_the_same_from_the_tar_of_tars(archives, index, content_of):
    from timm.data import create_dataset

    folder = index(
        "--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]
    )
    reader = create_dataset("", root=str(archives["train"])).reader
    theirs = sorted(
        (reader.filename(place, basename=True), reader[place][1], reader[place][0].read())
        for place in range(len(reader))
    )
    assert sorted(_ours(Manifest.read(folder / "train.parquet"), content_of)) == theirs


@pytest.mark.parametrize("layout", [_unzipped, _zip_of_a_tree], ids=lambda layout: layout.__name__.strip("_"))
def test_image_folder_reads_the_same_from_an_unpacked_zip(layout, tmp_path, images, index, content_of):
    from timm.data import create_dataset
    from torchvision.datasets import ImageFolder

    train, _ = _splits(index(*layout(tmp_path, images)))
    root = tmp_path / ("tiny-imagenet-200" if layout is _unzipped else "tree") / "train"
    assert _ours(train, content_of) == _samples(ImageFolder(str(root)).samples)
    if layout is _zip_of_a_tree:  # timm takes the innermost folder for the class, which is `images` in the other one
        assert sorted(_ours(train, content_of)) == sorted(_samples(create_dataset("", root=str(root)).reader.samples))


def test_the_tar_of_imported_shards_is_an_ordinary_one(tmp_path, images, index, content_of):
    from torchvision.datasets import ImageFolder

    folder = index(*_shards(tmp_path, images))
    train, val = _splits(folder)
    for split, manifest in (("train", train), ("val", val)):
        with tarfile.open(folder / f"{split}.tar") as archive:
            archive.extractall(tmp_path / "out" / split)
        assert _ours(manifest, content_of) == _samples(ImageFolder(str(tmp_path / "out" / split)).samples)


def test_shards_are_imported_once(tmp_path, images, index):
    options = _shards(tmp_path, images)
    folder = index(*options)
    before = (folder / "train.tar").stat().st_mtime_ns, (folder / "train.parquet").read_bytes()
    index(*options)
    assert ((folder / "train.tar").stat().st_mtime_ns, (folder / "train.parquet").read_bytes()) == before
    shard = next((tmp_path / "shards").rglob("train-*.parquet"))
    shard.touch()
    index(*options)
    assert (folder / "train.tar").stat().st_mtime_ns != before[0]


def test_names_below_a_class_keep_their_folders_in_image_folders_order(tmp_path, index, content_of):
    """ImageFolder walks sorted folders; "a-b/1.jpg" sorts before "a/1.jpg" as text but not as folders."""
    from torchvision.datasets import ImageFolder

    for split in ("train", "val"):
        for place, name in enumerate(("one/a/1.jpg", "one/a-b/1.jpg", "one/z.png", "two/1.webp", "two/2.JPG")):
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data_layouts.jpeg(place))
    train, _ = _splits(index("--train-folder", tmp_path / "train", "--val-folder", tmp_path / "val"))
    assert _ours(train, lambda m: [(Path(n).name, w, y, d) for n, w, y, d in content_of(m)]) == _samples(
        ImageFolder(str(tmp_path / "train")).samples
    )


def test_odd_members_are_settled_and_noted(tmp_path, images, index, content_of, capsys):
    """./ prefixes, macOS resource forks, text files, folders, links and a name that stands twice."""
    old = data_layouts.jpeg(77)
    inner = {}
    for wnid, members in images.train.items():
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
            names = list(members)
            _add(archive, "._" + names[0], b"resource fork")
            _add(archive, f"./{wnid}/", b"", tarfile.DIRTYPE)
            _add(archive, f"./{names[0]}", old)
            _add(archive, "readme.txt", b"hello")
            _add(archive, ".DS_Store", b"x")
            for name in names[:-1]:
                _add(archive, f"./{name}", members[name])
            _add(archive, "hidden-target.jpg", members[names[-1]])
            link = tarfile.TarInfo(f"./{names[-1]}")
            link.type, link.linkname = tarfile.LNKTYPE, "hidden-target.jpg"
            archive.addfile(link)
        inner[wnid] = stream.getvalue()
    path = tmp_path / "train.tar"
    members = [(f"./train/{wnid}.tar", content) for wnid, content in inner.items()]
    path.write_bytes(data_layouts.tar_bytes([("._n01440764.tar", b"fork"), *members, ("notes.txt", b"x")]))
    _, val = data_layouts.write_tree(tmp_path / "tree", images)
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(val, arcname=".")
    train = Manifest.read(index("--train-archive", path, "--val-archive", tmp_path / "val.tar") / "train.parquet")
    found = [row for row in content_of(train) if row[0] != "hidden-target.jpg"]
    assert found == images.ordered_train()
    notes = capsys.readouterr().err
    assert "3 links were resolved" in notes and "3 names occur twice" in notes and "are not images" in notes


def test_training_images_among_the_validation_images_are_noted(tmp_path, images, index, capsys):
    train, val = data_layouts.write_tree(tmp_path, images)
    said = "val: of {} images compared with training images of their class and size, {} are the same"

    def note(val_folder):
        capsys.readouterr()
        notes = read_json(index("--train-folder", train, "--val-folder", val_folder) / "dataset.json")["notes"]
        told = capsys.readouterr().err
        return [text for text in notes if text.startswith("val: of") and text in told]

    (tmp_path / "link").symlink_to(train)
    shutil.copytree(train, tmp_path / "copy")
    for same in (train, tmp_path / "link", tmp_path / "copy"):
        (text,) = note(same)
        assert text.startswith(said.format(12, 12))
    assert note(val) == []
    again = val / min(images.train) / "again.JPEG"
    content = min(images.train[min(images.train)].values())
    again.write_bytes(content)
    (text,) = note(val)
    assert ", 1 are the same" in text
    again.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert note(val) == [], "one bit is enough to be another image"


def _add(archive: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    archive.addfile(info, io.BytesIO(content))


def test_a_class_tar_that_stands_twice_counts_once_as_when_extracted(tmp_path, images, index, content_of, monkeypatch):
    paths = data_layouts.write_archives(tmp_path / "archives", images)
    wnid = WNIDS[0]
    stale = data_layouts.tar_bytes([(f"{wnid}_5.JPEG", data_layouts.jpeg(5)), (f"{wnid}_2.JPEG", data_layouts.jpeg(6))])
    fresh = [(f"{name}.tar", data_layouts.tar_bytes(list(members.items()))) for name, members in images.train.items()]
    paths["train"].write_bytes(data_layouts.tar_bytes([(f"{wnid}.tar", stale), *fresh]))
    data_layouts.write_sums(tmp_path / "archives", *paths.values())
    folder = index("--train-archive", paths["train"], "--val-archive", paths["val"], "--devkit", paths["devkit"])
    train = Manifest.read(folder / "train.parquet")
    assert content_of(train) == images.ordered_train()
    assert _ours(train, content_of) == _samples(
        _torchvision_imagenet(tmp_path / "archives", "train", monkeypatch).samples
    )


def test_indexing_imports_no_torch(archives, tmp_path):
    options = ["--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]]
    words = ["index", "--dataset", "small", "--output", str(tmp_path / "out"), *map(str, options)]
    code = f"""
import sys
from repvgg_companion.__main__ import main
assert main({words!r}) == 0
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.data.manifest import Manifest
ImageReader(Manifest.read({str(tmp_path / "out" / "val.parquet")!r})).read(0)
heavy = sorted(set(sys.modules) & {{"torch", "torchvision", "pandas", "pydantic", "matplotlib", "PIL", "cv2"}})
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
