"""CIFAR-10 and CIFAR-100 from archives in the layout of the official binary versions."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import data_layouts
import numpy as np
import pytest

from repvgg_companion.data.decode import decode_torchvision
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.files import read_json

BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "val": ["test_batch"]}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Fifteen training images and three validation images of each of ten classes."""
    return data_layouts.write_cifar(tmp_path / "cifar.tar.gz")


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as stream:
        return {member.name: stream.extractfile(member).read() for member in stream.getmembers() if member.isfile()}


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as stream:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            stream.addfile(info, io.BytesIO(content))
    return path


def decoders():
    import cv2
    from torchvision.transforms.functional import pil_to_tensor

    from repvgg_companion.data.decode import decode_pillow

    def opencv(data):
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].transpose(2, 0, 1)

    return {
        "pillow": lambda data: pil_to_tensor(decode_pillow(data)),
        "torchvision": decode_torchvision,
        "opencv": opencv,
    }


@pytest.mark.parametrize("decoder", ["pillow", "torchvision", "opencv"])
def test_every_image_has_its_pixels_and_its_class(archive, index, decoder):
    folder = index("--cifar-archive", archive)
    decode = decoders()[decoder]
    members = members_of(archive)
    for split, batches in BATCHES.items():
        manifest = Manifest.read(folder / f"{split}.parquet")
        assert list(manifest.classes) == data_layouts.CIFAR_CLASSES
        reader = ImageReader(manifest)
        records = {
            f"{batch}-{number:05d}.bmp": (record[0], record[1:].reshape(3, 32, 32))
            for batch in batches
            for number, record in enumerate(
                np.frombuffer(members[f"cifar-10-batches-bin/{batch}.bin"], np.uint8).reshape(-1, 3073)
            )
        }
        assert sorted(manifest.names) == sorted(records)
        for place, name in enumerate(manifest.names):
            label, pixels = records[name]
            assert manifest.labels[place] == label
            np.testing.assert_array_equal(np.asarray(decode(reader.read(place))), pixels)


def test_cifar_100_takes_the_fine_labels(tmp_path, index):
    path = data_layouts.write_cifar(tmp_path / "cifar100.tar.gz", fine=True)
    folder = index("--cifar-archive", path, "--num-classes", 100)
    manifest = Manifest.read(folder / "train.parquet")
    record = np.frombuffer(members_of(path)["cifar-100-binary/train.bin"], np.uint8).reshape(-1, 3074)[7]
    place = list(manifest.names).index("train-00007.bmp")
    assert manifest.labels[place] == record[1]
    assert manifest.classes[record[1]] == f"fine {record[1]:02d}"


def test_chosen_classes_alone_are_kept(archive, index):
    folder = index("--cifar-archive", archive, "--classes", "frog", "cat")
    manifest = Manifest.read(folder / "val.parquet")
    assert (list(manifest.classes), len(manifest)) == (["cat", "frog"], 6)


def test_the_same_archive_gives_the_same_manifest(archive, index, tmp_path):
    first, second = (
        read_json(index("--cifar-archive", archive, output=tmp_path / name) / "dataset.json") for name in "ab"
    )
    assert first["dataset_sha256"] == second["dataset_sha256"]


def _without(name):
    return lambda members: {key: content for key, content in members.items() if not key.endswith(name)}


def _with(name, change):
    return lambda members: {key: change(content) if key.endswith(name) else content for key, content in members.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("data_batch_3.bin"), "lacks data_batch_3.bin"),
        (_without("batches.meta.txt"), "not CIFAR's binary version; name cifar-10-binary.tar.gz"),
        (_with("test_batch.bin", lambda content: content[:-1]), "test_batch.bin has 92189 bytes"),
        (_with("test_batch.bin", lambda _: b""), "test_batch.bin has 0 bytes"),
        (_with("data_batch_1.bin", lambda content: b"\x0a" + content[1:]), "data_batch_1.bin has label 10"),
        (_with("batches.meta.txt", lambda content: content.replace(b"truck\n", b"")), "has label 9, but"),
        (
            lambda _: {"cifar-10-batches-py/batches.meta": b"x", "cifar-10-batches-py/data_batch_1": b"x"},
            "Python version",
        ),
    ],
)
def test_another_or_an_incomplete_archive_is_refused(archive, refused, tmp_path, change, said):
    path = pack(tmp_path / "changed.tar.gz", change(members_of(archive)))
    sentence = refused("index", "--dataset", "small", "--cifar-archive", path)
    assert str(path) in sentence and said in sentence


def test_a_damaged_archive_is_refused(archive, refused):
    os.truncate(archive, archive.stat().st_size // 2)
    assert "cannot be read as an archive" in refused("index", "--dataset", "small", "--cifar-archive", archive)
    archive.write_bytes(gzip.compress(b"no tar"))
    assert "cannot be read as an archive" in refused("index", "--dataset", "small", "--cifar-archive", archive)
    assert "does not exist" in refused(
        "index", "--dataset", "small", "--cifar-archive", archive.with_name("none.tar.gz")
    )


def test_the_official_name_is_compared_with_its_published_digest(archive, refused):
    named = archive.rename(archive.with_name("cifar-10-binary.tar.gz"))
    sentence = refused("index", "--dataset", "small", "--cifar-archive", named)
    assert "instead of c32a1d4ab5d03f1284b67883e8d87530" in sentence


def test_another_option_names_the_right_one(archive, refused):
    assert "--cifar-archive" in refused("index", "--dataset", "small", "--val-archive", archive)
    assert "--cifar-archive" in refused("index", "--dataset", "small", "--val-folder", archive)
