"""A training image that no decoder can read: it stops the run, or is replaced, listed and noted with the weights."""

import shutil
from pathlib import Path

import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.weights_file import load_weights


@pytest.fixture(scope="module")
def damaged(small_digits, tmp_path_factory) -> list[str]:
    """Options for a copy of the digits with two training images and one validation image overwritten."""
    folder = tmp_path_factory.mktemp("damaged")
    copies = {}
    for split, numbers in (("train", (5, 100)), ("val", (3,))):
        manifest = Manifest.read(small_digits / f"{split}.parquet")
        copies[split] = Path(shutil.copy(manifest.files[0], folder))
        with copies[split].open("r+b") as archive:
            for number in numbers:
                archive.seek(int(manifest.offsets[number]))
                archive.write(b"\0" * int(manifest.lengths[number]))
    devkit = small_digits.parent / "raw" / "ILSVRC2012_devkit_t12.tar.gz"
    words = ["--train-archive", copies["train"], "--val-archive", copies["val"], "--devkit", devkit]
    output = folder / "index"
    assert main(["index", "--dataset", "damaged", "--no-verify", *map(str, words), "--output", str(output)]) == 0
    manifests = ("--train-manifest", output / "train.parquet", "--val-manifest", output / "val.parquet")
    return [*map(str, manifests), "--dataset", "damaged"]


def test_stop_names_the_image(trainings, damaged):
    said = trainings.train("stopped", *damaged, status=2)
    assert "cannot be decoded" in said and "set data.undecodable to count" in said
    assert not trainings.weights("stopped").exists()


def test_count_replaces_lists_and_notes_and_workers_do_not_affect_the_weights(trainings, damaged):
    for workers in (0, 2):
        name = f"workers-{workers}"
        words = ["--undecodable", "count", "--workers", str(workers)]
        said = trainings.train(name, *damaged, *words, recipe={"epochs": 1, "warmup_epochs": 0})
        listed = [line for line in said.splitlines() if line.startswith("train: undecodable:")]
        assert len(listed) == 2 and all(".JPEG at byte " in line for line in listed), said
        _, identity = load_weights(trainings.weights(name))
        assert "2 undecodable training images were replaced by the next one" in identity.note
    first, second = (trainings.weights(f"workers-{workers}").read_bytes() for workers in (0, 2))
    assert first == second
