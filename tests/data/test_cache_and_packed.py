"""The decode-once cache and the packed copy: what they hold, that nothing else is taken for them, full disks."""

import errno
import io
import os
import shutil
import sys

import data_layouts
import numpy as np
import pytest
import torch
from PIL import Image

from repvgg_companion.__main__ import main
from repvgg_companion.data.batches.cache import cache_bytes, write_cache
from repvgg_companion.data.batches.evaluation_input import evaluation_batches
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.data.index.pack import write_packed
from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.errors import CompanionError

PROTOCOL = EvaluationProtocol(24, 16)


@pytest.fixture
def folder(archives, index):
    """Manifests of the small set in its archives."""
    return index("--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"])


def _all(manifest, protocol=PROTOCOL, **options):
    batches = list(evaluation_batches(manifest, protocol, batch_size=4, **options))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_the_cache_gives_the_decoded_images_and_is_a_plain_npy(folder, tmp_path, decoder, capsys):
    protocol = EvaluationProtocol(24, 16, decoder=decoder)
    path, manifest = tmp_path / "cache.npy", Manifest.read(folder / "val.parquet")
    words = ["--manifest", str(folder / "val.parquet"), "--protocol", protocol.label, "--output", str(path)]
    assert main(["cache", *words, "--workers", "2"]) == 0
    assert "9 images of 16 px need 0.00 GB" in capsys.readouterr().err
    decoded, labels = _all(manifest, protocol)
    cached, cached_labels = _all(manifest, protocol, cache=path)
    assert torch.equal(decoded, cached) and torch.equal(labels, cached_labels)
    assert np.array_equal(np.load(path, mmap_mode="r"), decoded.permute(0, 2, 3, 1).numpy())
    assert cache_bytes(manifest, protocol) == 9 * 3 * 16 * 16


def test_parts_of_the_set_with_and_without_a_cache(folder, tmp_path):
    manifest = Manifest.read(folder / "val.parquet")
    write_cache(tmp_path / "c.npy", manifest, PROTOCOL)
    images, labels = _all(manifest)
    chosen = np.array([8, 0, 5])
    for options in ({}, {"workers": 2}, {"cache": tmp_path / "c.npy"}):
        part, part_labels = _all(manifest, start=2, stop=7, **options)
        assert torch.equal(part, images[2:7]) and torch.equal(part_labels, labels[2:7])
        some, some_labels = _all(manifest, indices=chosen, **options)
        assert torch.equal(some, images[chosen]) and torch.equal(some_labels, labels[chosen])


def test_a_cache_of_other_images_or_another_protocol_is_refused(folder, tmp_path):
    val, train = Manifest.read(folder / "val.parquet"), Manifest.read(folder / "train.parquet")
    write_cache(tmp_path / "c.npy", val, PROTOCOL)
    for manifest, protocol in ((train, PROTOCOL), (val, EvaluationProtocol(20, 16))):
        with pytest.raises(CompanionError, match="was made of other images or by another protocol"):
            _all(manifest, protocol, cache=tmp_path / "c.npy")
    content = (tmp_path / "c.npy").read_bytes()
    for damaged in (content[:-40], b"", b"x" * 100):
        (tmp_path / "c.npy").write_bytes(damaged)
        with pytest.raises(CompanionError, match="is not a readable cache"):
            _all(val, cache=tmp_path / "c.npy")
    with pytest.raises(CompanionError, match="make it with the verb cache"):
        _all(val, cache=tmp_path / "none.npy")


def test_a_cache_is_stale_once_its_archive_was_replaced(folder, archives, tmp_path, index):
    """Other pixels under the same names and lengths give the same digest, so size and time of the archive count too."""
    manifest, path = Manifest.read(folder / "val.parquet"), tmp_path / "c.npy"
    write_cache(path, manifest, PROTOCOL)
    images, _ = _all(manifest, cache=path)
    content = bytearray(archives["val"].read_bytes())
    content[int(manifest.offsets[0]) + 300] ^= 1
    archives["val"].write_bytes(content)
    os.utime(archives["val"], ns=(1, 1))
    with pytest.raises(CompanionError, match="was replaced or changed since it was indexed"):
        _all(manifest, cache=path)
    options = ("--train-archive", archives["train"], "--val-archive", archives["val"], "--devkit", archives["devkit"])
    again = Manifest.read(index(*options, "--no-verify") / "val.parquet")
    assert again.sha256 == manifest.sha256
    with pytest.raises(CompanionError, match="was made before the archive was replaced"):
        _all(again, cache=path)
    archives["val"].rename(tmp_path / "away.tar")
    assert torch.equal(_all(manifest, cache=path)[0], images), "the archive may be away, the cache holds all pixels"


def test_a_disk_without_room_is_noticed_before_anything_is_written(folder, refused, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    words = ["cache", "--manifest", folder / "val.parquet", "--protocol", PROTOCOL.label]
    sentence = refused(*words, output=tmp_path / "caches" / "c.npy")
    assert "its disk has 0.00 GB left" in sentence and not list((tmp_path / "caches").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_while_writing_leaves_nothing(folder, tmp_path):
    """In a child whose files may not grow beyond 5 000 bytes; and, for the kernel's own error, with a faked ENOSPC."""
    import resource

    manifest = Manifest.read(folder / "val.parquet")
    output = tmp_path / "caches" / "c.npy"
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            write_cache(output, manifest, EvaluationProtocol(40, 32))
        except CompanionError as error:
            os._exit(0 if "cannot be written" in str(error) and not list(output.parent.iterdir()) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_full_disk_is_one_sentence(folder, refused, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    words = ["cache", "--manifest", folder / "val.parquet", "--protocol", PROTOCOL.label]
    sentence = refused(*words, output=tmp_path / "caches" / "c.npy")
    assert "the disk is full" in sentence and not list((tmp_path / "caches").iterdir())


def test_an_older_cache_survives_a_failure(folder, tmp_path, archives):
    path, manifest = tmp_path / "c.npy", Manifest.read(folder / "val.parquet")
    write_cache(path, manifest, PROTOCOL)
    before = path.read_bytes()
    os.utime(archives["val"], ns=(0, 0))
    with pytest.raises(CompanionError, match="was replaced or changed"):
        write_cache(path, manifest, PROTOCOL)
    assert path.read_bytes() == before and list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    "label", ["resize256-crop224-bilinear-pillow", "crop32-bilinear-pillow", "resize320-crop320-bicubic-torchvision"]
)
def test_labels_of_protocols_read_back(label):
    assert EvaluationProtocol.parse(label).label == label


@pytest.mark.parametrize(
    "label", ["", "224", "resize256-crop224", "crop224-nearest-pillow", "crop0-bilinear-pillow", "crop9-bilinear-cv2"]
)
def test_labels_that_are_no_protocol(label):
    with pytest.raises(CompanionError):
        EvaluationProtocol.parse(label)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_packed_copy_is_smaller_labelled_and_trains(tmp_path, index, workers):
    modes = list(enumerate(("RGB", "L", "CMYK")))
    big = {
        wnid: {f"{wnid}_{n}.JPEG": data_layouts.jpeg(n, width=300 + n, height=200, mode=mode) for n, mode in modes}
        for wnid in data_layouts.WNIDS
    }
    images = data_layouts.Images(big, data_layouts.small_images().val)
    paths = data_layouts.write_archives(tmp_path / "archives", images)
    folder = index("--train-archive", paths["train"], "--val-archive", paths["val"], "--devkit", paths["devkit"])
    words = ["--manifest", folder / "train.parquet", "--output", tmp_path / "p" / "train.parquet", "--short-side", 64]
    assert main(["pack", *map(str, words), "--workers", str(workers)]) == 0
    source, packed = Manifest.read(folder / "train.parquet"), Manifest.read(tmp_path / "p" / "train.parquet")
    assert packed.packed == "short64-q90" and source.packed == ""
    assert packed.sha256 != source.sha256 and packed.source_sha256 == source.sha256
    val = Manifest.read(folder / "val.parquet")
    assert dataset_sha256(packed, val) == dataset_sha256(source, val), "the recipe tells them apart, not the dataset"
    assert list(packed.names) == list(source.names) and packed.labels.tolist() == source.labels.tolist()
    reader, original = ImageReader(packed), ImageReader(source)
    for place in range(len(packed)):
        with Image.open(io.BytesIO(reader.read(place))) as image:
            assert image.format == "JPEG" and image.mode == "RGB" and min(image.size) == 64
            with Image.open(io.BytesIO(original.read(place))) as before:
                expected = np.asarray(before.convert("RGB").resize(image.size, Image.Resampling.BOX), int)
            assert np.abs(np.asarray(image, int) - expected).mean() < 3
    batches = list(
        TrainingInput(packed, input_px=32, augmentation="crop-flip", decoder="opencv", seed=0).batches(0, batch_size=9)
    )
    assert batches[0][0].shape == (9, 3, 32, 32)
    assert packed.lengths.sum() < source.lengths.sum()


def test_a_copy_is_not_packed_again_and_odd_settings_are_refused(folder, tmp_path):
    manifest = Manifest.read(folder / "train.parquet")
    packed = write_packed(tmp_path / "p.parquet", manifest, short_side_px=16)
    with pytest.raises(CompanionError, match="is a packed copy already"):
        write_packed(tmp_path / "q.parquet", packed)
    for options in ({"quality": 0}, {"quality": 101}, {"short_side_px": 0}):
        with pytest.raises(CompanionError, match="at least 1 pixel"):
            write_packed(tmp_path / "q.parquet", manifest, **options)
    assert not (tmp_path / "q.parquet").exists()


def test_packing_overwrites_nothing_that_it_reads(folder, archives, capsys):
    before = archives["train"].read_bytes(), (folder / "train.parquet").read_bytes()
    beside = archives["train"].with_suffix(".parquet")
    for output, said in (
        (beside, "overwrite"),
        (folder / "train.parquet", "overwrite"),
        (folder / "p.tar", ".parquet"),
    ):
        words = ["pack", "--manifest", str(folder / "train.parquet"), "--output", str(output), "--workers", "0"]
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert before == (archives["train"].read_bytes(), (folder / "train.parquet").read_bytes())
