"""Each study file trains: one epoch of one network on a hundred images, from an archive of the form that it names."""

import io
import json
import zipfile
from pathlib import Path

import data_layouts
import numpy as np
import pytest
from PIL import Image

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.experiment.load import read_experiment

ROOT = Path(__file__).parents[2]
STUDIES = [
    ROOT / "config" / f"study-{name}.yaml"
    for name in (
        "tiny-imagenet",
        "tiny-imagenet-table7",
        "tiny-imagenet-rate",
        "tiny-imagenet-epochs",
        "tiny-imagenet-width",
        "tiny-imagenet-strides",
        "cifar10",
        "cifar10-table7",
    )
]


def write_zip(path: Path, classes: list[str]) -> None:
    """At least 130 training images, a validation image of each class, 64 px, in the layout of tiny-imagenet-200.zip."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "JPEG")
    with zipfile.ZipFile(path, "w") as archive:
        for wnid in classes:
            for number in range(2 + 130 // len(classes)):
                archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{number}.JPEG", stream.getvalue())
            archive.writestr(f"tiny-imagenet-200/val/images/{wnid}.JPEG", stream.getvalue())
        lines = "".join(f"{wnid}.JPEG\t{wnid}\t0\t0\t62\t62\n" for wnid in classes)
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", lines)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_file_trains(path, tmp_path):
    experiment = read_experiment(path)
    data, group = experiment.data, experiment.training[0]
    if data.cifar_archive:
        images = ["--cifar-archive", str(data_layouts.write_cifar(tmp_path / "images.tar.gz"))]
    else:
        write_zip(tmp_path / "images.zip", [*data.classes, "n99999999"])
        images = ["--zip", str(tmp_path / "images.zip"), "--classes", *data.classes]
    named = ["--dataset", data.dataset, "--num-classes", str(data.num_classes), "--output", str(tmp_path / "data")]
    assert main(["index", *named, *images]) == 0
    recipe = experiment.recipes[group.recipe].settings() | {"epochs": 1}
    state, output, history = (str(tmp_path / name) for name in ("state", "train.safetensors", "history.csv"))
    words = ["--model", group.models[0], "--width", str(group.width), "--recipe-name", group.recipe]
    words += ["--recipe", json.dumps(recipe), "--state", state, "--output", output, "--history", history]
    manifests = [f"--{split}-manifest={tmp_path}/data/{split}.parquet" for split in ("train", "val")]
    assert main(["train", "--dataset", data.dataset, *words, *manifests, "--device", "cpu", "--workers", "0"]) == 0
    (epoch,) = read_rows(history, "history")
    assert epoch["epoch"] == 1 and epoch["learning_rate"] == recipe["learning_rate"]
