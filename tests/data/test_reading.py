"""Manifests and the reader of image bytes: damage, replacement, sharing between processes."""

import os
import pickle
import threading

import data_layouts
import pytest

from repvgg_companion.data.manifest import Manifest, ManifestBuilder, dataset_sha256
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.errors import CompanionError


@pytest.fixture
def folder(archives, index):
    """Manifests of the small set in its archives."""
    return index("--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"])


def test_a_manifest_read_back_is_the_one_written(folder, tmp_path):
    manifest = Manifest.read(folder / "train.parquet")
    manifest.write(tmp_path / "copy.parquet")
    assert (tmp_path / "copy.parquet").read_bytes() == (folder / "train.parquet").read_bytes()
    assert len(manifest) == 12 and manifest.num_classes == 3 and manifest.packed == ""
    assert list(manifest.wnids) == [wnid for wnid in data_layouts.WNIDS for _ in range(4)]
    assert manifest.names[-1] == list(manifest.names)[-1] == manifest.names[8:][3]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet" * 100])
def test_a_damaged_manifest_is_one_sentence(tmp_path, content):
    path = tmp_path / "train.parquet"
    path.write_bytes(content)
    with pytest.raises(CompanionError, match=r"is not readable as a manifest .* index the data again"):
        Manifest.read(path)


def test_another_parquet_file_and_a_missing_one(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"label": [1]}), tmp_path / "other.parquet")
    with pytest.raises(CompanionError, match="is not readable as a manifest"):
        Manifest.read(tmp_path / "other.parquet")
    with pytest.raises(CompanionError, match="does not exist; make it with the verb index"):
        Manifest.read(tmp_path / "none.parquet")


def test_the_digest_covers_names_labels_and_lengths_but_not_places():
    def digest(images, classes=("a", "b")):
        builder = ManifestBuilder()
        for wnid, rows in images.items():
            builder.add_class(wnid, rows)
        return builder.build(classes, classes).sha256

    base = {"a": [("x", "file", 0, 5)], "b": [("y", "file", 5, 6)]}
    assert digest(base) == digest({"b": [("y", "other", 77, 6)], "a": [("x", "third", 1, 5)]})
    assert digest(base) != digest({**base, "a": [("z", "file", 0, 5)]})
    assert digest(base) != digest({**base, "a": [("x", "file", 0, 4)]})
    assert digest(base) != digest(base, ("b", "a"))
    assert digest(base) != digest({"a": [*base["a"], ("w", "file", 0, 1)], "b": base["b"]})


def test_the_datasets_digest_depends_on_both_splits(folder):
    train, val = Manifest.read(folder / "train.parquet"), Manifest.read(folder / "val.parquet")
    assert len({dataset_sha256(train, val), dataset_sha256(val, train), dataset_sha256(val)}) == 3


def test_an_archive_replaced_after_indexing_is_refused(folder, archives):
    reader = ImageReader(Manifest.read(folder / "train.parquet"))
    content = reader.read(0)
    os.utime(archives["train"], ns=(0, 0))
    with pytest.raises(CompanionError, match=r"was replaced or changed since it was indexed .* index the data again"):
        ImageReader(reader.manifest).read(0)
    assert reader.read(0) == content, "a file that is open already stays the same file"
    archives["train"].unlink()
    with pytest.raises(CompanionError, match="cannot be opened"):
        ImageReader(reader.manifest).open()


def test_an_image_file_that_grew_or_shrank_is_refused(tmp_path, images, index):
    train, val = data_layouts.write_tree(tmp_path / "tree", images)
    manifest = Manifest.read(index("--train-folder", train, "--val-folder", val) / "train.parquet")
    reader = ImageReader(manifest)
    assert len(reader.read(0)) == manifest.lengths[0]
    with open(manifest.files[0], "ab") as stream:  # noqa: PTH123
        stream.write(b"x")
    os.truncate(manifest.files[1], 3)
    for place in (0, 1):
        with pytest.raises(CompanionError, match="has changed since it was indexed"):
            reader.read(place)


def test_threads_and_processes_share_one_descriptor(folder):
    reader = ImageReader(Manifest.read(folder / "train.parquet")).open()
    expected = [reader.read(place) for place in range(12)]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208
    failures = []

    def read_all():
        for _ in range(50):
            if [reader.read(place) for place in range(12)] != expected:
                failures.append(1)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if child == 0:
        os._exit(0 if [reader.read(place) for place in range(12)] == expected else 1)
    assert os.waitpid(child, 0)[1] == 0 and not failures
    if before:
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    copy = pickle.loads(pickle.dumps(reader))
    assert [copy.read(place) for place in range(12)] == expected
