"""Bad input of the verb `index`: one sentence of what, where and what to do; exit status 2; nothing left behind."""

import errno
import gzip
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import data_layouts
import pytest
from data_layouts import WNIDS, tar_bytes, write_devkit, write_sums

from repvgg_companion import progress
from repvgg_companion.data.index.image_tar import ImageTar
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.files import read_json


@pytest.fixture
def index_refused(refused, archives):
    """Run `index` on the archives of the small set, some of them replaced; returns the sentence."""

    def run(**changed: object) -> str:
        named = {**archives, **changed}
        options = [word for key, option in OPTIONS.items() if named.get(key) for word in (option, named[key])]
        return refused("index", "--dataset", "small", "--no-verify", *options)

    return run


OPTIONS = {"train": "--train-archive", "val": "--val-archive", "devkit": "--devkit"}


def _inner_length(archives: dict[str, Path]) -> tuple[int, int]:
    with tarfile.open(archives["train"]) as archive:
        member = archive.getmembers()[1]
    return member.offset, member.offset_data


def test_a_tar_truncated_at_a_header(archives, index_refused):
    header, _ = _inner_length(archives)
    os.truncate(archives["train"], header)
    assert f"{archives['train']} is truncated" in index_refused()


def test_a_tar_truncated_inside_a_header(archives, index_refused):
    header, _ = _inner_length(archives)
    os.truncate(archives["train"], header + 100)
    assert f"{archives['train']} is truncated" in index_refused()


def test_a_tar_truncated_inside_a_member(archives, index_refused):
    _, data = _inner_length(archives)
    os.truncate(archives["train"], data + 700)
    sentence = index_refused()
    assert "is truncated: member" in sentence and "n02119789.tar" in sentence


def test_a_flat_tar_truncated_inside_an_image(archives, index_refused):
    os.truncate(archives["val"], archives["val"].stat().st_size // 2)
    assert f"{archives['val']} is truncated" in index_refused()


def test_an_inner_tar_truncated_with_a_right_outer_size(archives, images, index_refused):
    whole = tar_bytes(list(images.train[WNIDS[1]].items()))
    others = [(f"{wnid}.tar", tar_bytes(list(images.train[wnid].items()))) for wnid in (WNIDS[0], WNIDS[2])]
    archives["train"].write_bytes(tar_bytes([*others, (f"{WNIDS[1]}.tar", whole[:1400])]))
    sentence = index_refused()
    assert "inner tar n02119789.tar is truncated" in sentence and "(byte" in sentence


def test_a_size_larger_than_the_file(archives, index_refused):
    data = bytearray(archives["val"].read_bytes())
    data[124:136] = b"77777777777\0"
    total = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    data[148:156] = b"%06o\0 " % total
    archives["val"].write_bytes(data)
    assert "is truncated: member" in index_refused()


@pytest.mark.parametrize("which", ["train", "val"])
def test_a_compressed_archive(which, archives, index_refused):
    archives[which].write_bytes(gzip.compress(archives[which].read_bytes()))
    sentence = index_refused()
    assert "compressed with gzip" in sentence and "decompress it first" in sentence


def test_a_compressed_class_tar(archives, images, index_refused):
    inner = gzip.compress(tar_bytes(list(images.train[WNIDS[0]].items())))
    archives["train"].write_bytes(tar_bytes([(f"{WNIDS[0]}.tar", inner)]))
    assert "inner tar n01440764.tar is compressed with gzip" in index_refused()


def test_a_login_page_in_place_of_the_archive(archives, index_refused):
    archives["train"].write_text("<!DOCTYPE html><html>please sign in</html>" * 40)
    assert "is not a tar archive" in index_refused()


def test_an_empty_file_and_an_archive_without_images(archives, index_refused):
    archives["train"].write_bytes(b"")
    assert f"{archives['train']} is empty" in index_refused()
    archives["train"].write_bytes(tar_bytes([]))
    assert "holds no image" in index_refused()
    archives["train"].write_bytes(tar_bytes([("readme.txt", b"hello")]))
    assert "holds no image" in index_refused()


@pytest.mark.parametrize("name", ["/n01440764_1.JPEG", "../n01440764_1.JPEG", "a/../../n01440764_1.JPEG"])
def test_names_that_lead_out_of_the_folder(name, archives, images, index_refused):
    inner = tar_bytes([(name, b"x")])
    archives["train"].write_bytes(tar_bytes([("n01440764.tar", inner)]))
    sentence = index_refused()
    assert "inner tar n01440764.tar" in sentence and ("absolute path" in sentence or "outside its folder" in sentence)
    archives["train"].write_bytes(tar_bytes([(name, b"x")]))
    assert str(archives["train"]) in index_refused()


def test_a_class_tar_without_images(archives, images, index_refused):
    members = [(f"{wnid}.tar", tar_bytes(list(members.items()))) for wnid, members in images.train.items()]
    archives["train"].write_bytes(tar_bytes([*members, ("n09999999.tar", tar_bytes([]))]))
    assert "holds no image in class n09999999" in index_refused()


def test_an_empty_class_folder(tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    (train / "n09999999").mkdir()
    options = ["--train-folder", train, "--val-folder", val]
    assert "no image in class n09999999" in refused("index", "--dataset", "small", *options)
    (train / "n09999999" / "notes.txt").write_text("x")
    assert "no image in class n09999999" in refused("index", "--dataset", "small", *options)


def test_the_devkit_is_missing(archives, index_refused, tmp_path):
    assert f"{tmp_path / 'none.tar.gz'} does not exist" in index_refused(devkit=tmp_path / "none.tar.gz")
    sentence = index_refused(devkit=None)
    assert "name ILSVRC2012_devkit_t12.tar.gz with --devkit" in sentence


def test_a_devkit_of_another_year(archives, images, index_refused, tmp_path):
    path = tmp_path / "ILSVRC2010_devkit-1.0.tar.gz"
    write_devkit(path, images)
    with tarfile.open(path, "w:gz") as archive:
        for name in ("data/meta.mat", "data/ILSVRC2010_validation_ground_truth.txt"):
            source = tmp_path / Path(name).name
            source.write_bytes(b"1\n")
            archive.add(source, arcname=f"devkit-1.0/{name}")
    sentence = index_refused(devkit=path)
    assert "ILSVRC2010_validation_ground_truth.txt" in sentence and "another year" in sentence


def test_a_devkit_that_does_not_match_the_classes(archives, images, index_refused, tmp_path):
    words = {**data_layouts.WORDS, "n02510455": "giant panda"}
    ids = {**data_layouts.IDS, "n02510455": 4}
    path = tmp_path / "devkit.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            ("meta.mat", data_layouts.meta_mat(ids, words)),
            ("ILSVRC2012_validation_ground_truth.txt", data_layouts.ground_truth(images)),
        ):
            (tmp_path / name).write_bytes(content)
            archive.add(tmp_path / name, arcname=f"ILSVRC2012_devkit_t12/data/{name}")
    sentence = index_refused(devkit=path)
    assert "does not match the training images" in sentence and "n02510455" in sentence


@pytest.mark.parametrize("lines", [b"1\n2\n", b"1\n2\n3\n" * 4])
def test_a_ground_truth_with_a_wrong_number_of_lines(lines, images, index_refused, tmp_path):
    devkit = write_devkit(tmp_path / "devkit.tar.gz", images, truth=lines)
    sentence = index_refused(devkit=devkit)
    assert "9 validation images" in sentence and f"has {len(lines.split())} lines" in sentence


def test_a_ground_truth_with_an_unknown_id_or_no_number(images, index_refused, tmp_path):
    devkit = write_devkit(tmp_path / "devkit.tar.gz", images, truth=b"1\n2\n3\n" * 2 + b"1\n2\n77\n")
    assert "names ID 77, which is not a class" in index_refused(devkit=devkit)
    devkit = write_devkit(tmp_path / "devkit.tar.gz", images, truth=b"1\ntwo\n3\n" * 3)
    assert "line 2 of" in index_refused(devkit=devkit)


def test_a_damaged_devkit(archives, index_refused, tmp_path):
    whole = archives["devkit"].read_bytes()
    for content in (whole[:300], b"\x1f\x8b" + b"x" * 100, b"plain text", b""):
        path = tmp_path / "devkit.tar.gz"
        path.write_bytes(content)
        assert str(path) in index_refused(devkit=path)
    folder = tmp_path / "devkit"
    folder.mkdir()
    (folder / "meta.mat").write_bytes(b"no MATLAB file")
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_bytes(b"1\n")
    assert "meta.mat is not the table of synsets" in index_refused(devkit=folder)


def test_labels_of_folders_that_contradict_the_devkit(tmp_path, images, refused):
    """label = ID - 1 is a known mistake: such folders are noticed, not believed."""
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    devkit = write_devkit(tmp_path / "devkit.tar.gz", images)
    a, b = val / WNIDS[0], val / WNIDS[1]
    a.rename(val / "x")
    b.rename(a)
    (val / "x").rename(b)
    sentence = refused("index", "--dataset", "s", "--train-folder", train, "--val-folder", val, "--devkit", devkit)
    assert "the devkit" in sentence and "says otherwise" in sentence


def test_a_missing_or_renamed_validation_image(tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images, flat_val=True)
    devkit = write_devkit(tmp_path / "devkit.tar.gz", images)
    options = ["--train-folder", train, "--val-folder", val, "--devkit", devkit]
    (val / "ILSVRC2012_val_00000004.JPEG").rename(val / "other.JPEG")
    assert "'other.JPEG', which is not the name of a validation image" in refused("index", "--dataset", "s", *options)
    (val / "other.JPEG").unlink()
    assert "the first difference is image 4" in refused("index", "--dataset", "s", *options)


def test_validation_classes_outside_the_training_set(tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    (val / WNIDS[2]).rename(val / "n09999999")
    sentence = refused("index", "--dataset", "s", "--train-folder", train, "--val-folder", val)
    assert "validation class n09999999 is not a class of the training images" in sentence


def test_a_number_of_classes_that_is_not_the_experiments(archives, refused):
    options = [word for key, option in OPTIONS.items() for word in (option, archives[key])]
    sentence = refused("index", "--dataset", "s", "--num-classes", 1000, *options)
    assert "3 classes instead of 1000" in sentence and "data.num_classes" in sentence


def test_folders_that_are_not_what_they_should_be(tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    cases = {
        "does not exist": (tmp_path / "nowhere", val),
        "name that split's folder itself": (tmp_path / "tree", val),
        "holds no image": (_empty(tmp_path), val),
    }
    for words, (first, second) in cases.items():
        assert words in refused("index", "--dataset", "s", "--train-folder", first, "--val-folder", second)
    (train / "loose.JPEG").write_bytes(b"x")
    assert "'loose.JPEG' in none" in refused("index", "--dataset", "s", "--train-folder", train, "--val-folder", val)
    (train / "loose.JPEG").unlink()
    (train / WNIDS[0] / "loop").symlink_to(train)
    assert "to a folder that holds it" in refused(
        "index", "--dataset", "s", "--train-folder", train, "--val-folder", val
    )
    (train / WNIDS[0] / "loop").unlink()
    (train / WNIDS[0] / "gone.JPEG").symlink_to(tmp_path / "gone")
    assert "gone.JPEG" in refused("index", "--dataset", "s", "--train-folder", train, "--val-folder", val)


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_flat_validation_images_without_a_devkit(tmp_path, images, refused):
    train, val = data_layouts.write_tree(tmp_path / "tree", images, flat_val=True)
    sentence = refused("index", "--dataset", "s", "--train-folder", train, "--val-folder", val)
    assert "--devkit (data.devkit_archive)" in sentence


def test_sources_that_do_not_go_together(archives, refused, tmp_path):
    assert "no images given" in refused("index", "--dataset", "s")
    assert "--train-archive given" in refused("index", "--dataset", "s", "--train-archive", archives["train"])
    sentence = refused("index", "--dataset", "s", "--zip", "x.zip", "--val-archive", archives["val"])
    assert "--val-archive, --zip given" in sentence
    assert "cannot be opened" in refused(
        "index", "--dataset", "s", "--train-archive", tmp_path / "no.tar", "--val-archive", archives["val"],
        "--devkit", archives["devkit"],
    )  # fmt: skip


def test_zips_that_are_damaged_encrypted_or_lead_out(tmp_path, images, refused):
    path = data_layouts.write_zip(tmp_path / "tiny.zip", images)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no zip", whole[:-10]):
        path.write_bytes(content)
        assert "is not readable as a zip" in refused("index", "--dataset", "s", "--zip", path)
    damaged = bytearray(whole)
    damaged[whole.index(b"PK\x03\x04", 2000)] = 0
    path.write_bytes(damaged)
    assert "is not readable as a zip" in refused("index", "--dataset", "s", "--zip", path)
    nameless = bytearray(whole)
    nameless[whole.rindex(b"PK\x01\x02") + 46] = 0  # a name ends at its first zero
    path.write_bytes(nameless)
    assert "has no name" in refused("index", "--dataset", "s", "--zip", path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/n01440764/../../x.JPEG", b"x")
    assert "outside its folder" in refused("index", "--dataset", "s", "--zip", path)
    central = whole.rindex(b"PK\x01\x02")
    for flag, reason in ((0x1, "encrypted"), (0x40, "encrypted"), (0x20, "a patch of another file")):
        flags = bytearray(whole)
        flags[central + 8] |= flag
        path.write_bytes(flags)
        assert reason in refused("index", "--dataset", "s", "--zip", path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/x.JPEG", b"x")
    assert "no image in a folder 'train'" in refused("index", "--dataset", "s", "--zip", path)


def test_a_zip_that_lacks_a_listed_class(tmp_path, images, refused):
    less = data_layouts.Images({wnid: images.train[wnid] for wnid in WNIDS[1:]}, {})
    less.val = {name: row for name, row in images.val.items() if row[0] != WNIDS[0]}
    path = data_layouts.write_zip(tmp_path / "tiny.zip", less)
    assert f"no training image of class {WNIDS[0]}" in refused("index", "--dataset", "s", "--zip", path)


def test_chosen_classes_that_the_images_lack_or_that_are_named_twice(tmp_path, images, refused):
    zipped = ("index", "--dataset", "s", "--zip", data_layouts.write_zip(tmp_path / "tiny.zip", images), "--classes")
    assert "dataset s has no class n09999999, which --classes (data.classes) names" in refused(*zipped, "n09999999")
    assert f"names {WNIDS[0]} twice" in refused(*zipped, WNIDS[0], WNIDS[0])
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(WNIDS))
    assert "--classes and --labels both number" in refused(*zipped, WNIDS[0], "--labels", labels)


def test_kaggle_folders_that_are_incomplete(tmp_path, images, refused):
    root = data_layouts.write_kaggle(tmp_path / "kaggle", images)
    assert "holds no ILSVRC/Data/CLS-LOC/train" in refused("index", "--dataset", "s", "--kaggle-folder", tmp_path)
    solution = (root / "LOC_val_solution.csv").read_text()
    image = root / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG"
    content = image.read_bytes()
    image.unlink()
    assert "lacks 1 images" in refused("index", "--dataset", "s", "--kaggle-folder", root)
    image.write_bytes(content)
    (root / "LOC_val_solution.csv").write_text(solution.replace("ILSVRC2012_val_00000003,", "ILSVRC2012_val_00000099,"))
    assert "00000099" in refused("index", "--dataset", "s", "--kaggle-folder", root)
    (root / "LOC_val_solution.csv").unlink()
    assert "holds no LOC_val_solution.csv" in refused("index", "--dataset", "s", "--kaggle-folder", root)


def test_shards_that_are_missing_damaged_or_contradict_themselves(tmp_path, images, refused):
    import pyarrow
    from pyarrow import parquet

    folder = data_layouts.write_shards(tmp_path / "shards", images)
    options = ["index", "--dataset", "s", "--parquet-folder", folder]
    second = folder / "train-00001-of-00002.parquet"
    content = second.read_bytes()
    second.unlink()
    assert "lacks shard 00001 of 00002" in refused(*options)
    second.write_bytes(content[: len(content) // 2])
    assert "is not readable as a shard" in refused(*options)
    second.write_bytes(content)
    table = parquet.read_table(second)
    wrong = table.set_column(1, "label", pyarrow.array([(label + 1) % 3 for label in table["label"].to_pylist()]))
    parquet.write_table(wrong, second)
    assert "elsewhere" in refused(*options)
    parquet.write_table(table.rename_columns(["img", "label"]), second)
    assert "instead of image and label" in refused(*options)
    without = data_layouts.write_shards(tmp_path / "plain", images, with_wnid=False)
    for path in without.iterdir():  # neither paths nor metadata say what a label means
        parquet.write_table(parquet.read_table(path).replace_schema_metadata({}), path)
    assert "--devkit" in refused("index", "--dataset", "s", "--parquet-folder", without)
    assert "holds no shard" in refused("index", "--dataset", "s", "--parquet-folder", _empty(tmp_path))


def test_an_older_index_survives_a_failure(archives, index, refused):
    options = [word for key, option in OPTIONS.items() for word in (option, archives[key])]
    folder = index(*options)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    os.truncate(archives["train"], 5000)
    refused("index", "--dataset", "small", "--no-verify", *options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_output(archives, refused, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    options = [word for key, option in OPTIONS.items() for word in (option, archives[key])]
    assert "cannot be written" in refused("index", "--dataset", "small", *options, output=folder / "x")


# --- digests -------------------------------------------------------------------------------------------------------


def test_a_wrong_digest_names_file_and_both_digests(archives, refused):
    sums = archives["train"].with_name("MD5SUMS")
    right = sums.read_text().split()[0]
    sums.write_text(sums.read_text().replace(right, "0" * 32))
    options = [word for key, option in OPTIONS.items() for word in (option, archives[key])]
    sentence = refused("index", "--dataset", "small", *options)
    assert str(archives["train"]) in sentence and right in sentence and "0" * 32 in sentence
    assert "--no-verify" in sentence
    again = refused("index", "--dataset", "small", *options)
    assert again == sentence


def test_without_md5sums_the_published_digests_count(archives, refused, index):
    """A file that bears the published name must be the published file, unless the check is left out."""
    archives["train"].with_name("MD5SUMS").unlink()
    options = [word for key, option in OPTIONS.items() for word in (option, archives[key])]
    assert "fa75699e90414af021442c21a62c3abf" in refused("index", "--dataset", "small", *options)
    index(*options, "--no-verify")
    renamed = archives["devkit"].rename(archives["devkit"].with_name("kit.tar.gz"))
    options[-1] = renamed
    assert "29b22e2961454d5413ddabcf34fc5622" in refused("index", "--dataset", "small", *options), "validation first"


def test_an_unchanged_archive_is_hashed_once(archives, index, monkeypatch):
    from repvgg_companion.data.index import source

    hashed = []
    original = source.HashedSource.__init__

    def counting(self, path, *arguments):
        hashed.append(Path(path).name)
        original(self, path, *arguments)

    monkeypatch.setattr(source.HashedSource, "__init__", counting)
    options = [word for key, option in OPTIONS.items() for word in (option, archives[key])]
    folder = index(*options)
    names = sorted(path.name for path in archives.values())
    assert sorted(hashed) == names
    first = (folder / "train.parquet").read_bytes()
    index(*options)
    assert sorted(hashed) == names, "nothing changed, so nothing is read again"
    assert (folder / "train.parquet").read_bytes() == first, "seeking and one sequential pass give the same index"
    archives["val"].touch()
    index(*options)
    assert sorted(hashed) == sorted([*names, archives["val"].name])
    assert len(read_json(folder / "digests.json")) == 3


def test_progress_is_shown_and_an_archive_without_a_published_digest_is_named(archives, index, capsys):
    options = ["--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"]]
    index(*options)
    hashed = capsys.readouterr().err
    assert "index and MD5 of ILSVRC2012_img_train.tar: 1/1 MB" in hashed and "is published" not in hashed
    index(*options)
    assert "index of ILSVRC2012_img_train.tar: 1/1 MB" in capsys.readouterr().err
    options[1] = archives["train"].rename(archives["train"].with_name("mine.tar"))
    index(*options)
    assert "no MD5 is published for a file called mine.tar" in capsys.readouterr().err


def test_progress_is_shown_while_a_folder_is_read(tmp_path, images, index, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    index("--train-folder", train, "--val-folder", val)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("index of train: ")]
    assert lines[0].startswith("index of train: 1/3 entries, ") and lines[0].endswith(" s left, 4 images")
    assert lines[-1].startswith("index of train: 3/3 entries, ") and lines[-1].endswith(", 12 images")


def test_the_verb_verify(archives, tmp_path, capsys):
    from repvgg_companion.__main__ import main

    words = ["verify", "--archives", *map(str, archives.values()), "--output", str(tmp_path / "digests.json")]
    assert main(words) == 0
    assert capsys.readouterr().out.count("as published\n") == 3
    assert main(words) == 0
    assert capsys.readouterr().out.count("(known, file unchanged)") == 3
    with archives["val"].open("ab") as stream:
        stream.write(b"x")
    assert main(words) == 2
    assert "instead of" in capsys.readouterr().err
    other = tmp_path / "other.tar"
    other.write_bytes(b"x")
    assert main([*words[:2], str(other), *words[5:]]) == 2
    assert "no digest is published" in capsys.readouterr().err
    write_sums(tmp_path, other)
    assert main([*words[:2], str(other), *words[5:]]) == 0


# --- images that are copied ----------------------------------------------------------------------------------------


def _deflated(tmp_path: Path, images: data_layouts.Images) -> list[object]:
    return ["--zip", data_layouts.write_zip(tmp_path / "tiny.zip", images, compression=zipfile.ZIP_DEFLATED)]


def _shards(tmp_path: Path, images: data_layouts.Images) -> list[object]:
    return ["--parquet-folder", data_layouts.write_shards(tmp_path / "shards", images)]


COPIED = pytest.mark.parametrize("layout", [_deflated, _shards], ids=lambda layout: layout.__name__.strip("_"))


@COPIED
def test_a_wrong_number_of_classes_shows_before_anything_is_copied(layout, tmp_path, images, refused, capsys):
    options = layout(tmp_path, images)
    assert "3 classes instead of 1000" in refused("index", "--dataset", "s", "--num-classes", 1000, *options)
    assert not list((tmp_path / "index").glob("*.tar"))


@COPIED
@pytest.mark.parametrize("fault", ["while the copies are made", "while the manifests are written"])
def test_a_fault_after_copying_keeps_what_an_earlier_run_had_finished(
    layout, fault, tmp_path, images, index, refused, content_of, monkeypatch
):
    options = layout(tmp_path, images)
    folder = index(*options)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    for path in tmp_path.glob("shards/*.parquet"):  # to be copied again
        path.touch()

    add, room = ImageTar.add, [15 if fault == "while the copies are made" else 1000]

    def add_or_fill(*arguments):
        room[0] -= 1
        return add(*arguments) if room[0] else full()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ImageTar, "add", add_or_fill)
    monkeypatch.setattr(Manifest, "write_parquet", full)
    sentence = refused("index", "--dataset", "s", *options)
    assert "full" in sentence or "No space left" in sentence
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert content_of(Manifest.read(folder / "train.parquet")) == images.ordered_train()


@COPIED
def test_what_a_killed_run_left_of_a_copy_is_removed_by_the_next(layout, tmp_path, images, index):
    left = tmp_path / "index" / ".train.tar.abc.partial"
    left.mkdir(parents=True)
    (left / ".partial.tar").write_bytes(b"half")
    index(*layout(tmp_path, images))
    assert not left.exists() and (tmp_path / "index" / "train.tar").exists()
