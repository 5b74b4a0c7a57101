"""What the verb `evaluate` tells and refuses about the weights files that it is given."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from pyarrow import parquet

from repvgg_companion.__main__ import main
from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.errors import CompanionError
from repvgg_companion.evaluation.evaluate_files import require_same_classes
from repvgg_companion.files import sha256_of_file, write_json
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.results.provenance import provenance
from repvgg_companion.results.report import _facts
from repvgg_companion.weights_file import load_weights, save_weights

NOTE = "batch norm saw 8 images, the paper's 32"


PROTOCOL = "resize16-crop16-bilinear-pillow"


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder of manifests of the digits, with 20 validation images."""
    assert main(["make-demo-data", "--output", str(tmp_path)]) == 0
    words = ["--train-archive", "ILSVRC2012_img_train.tar", "--val-archive", "ILSVRC2012_img_val.tar"]
    words += ["--devkit", "ILSVRC2012_devkit_t12.tar.gz"]
    words = [word if word.startswith("--") else str(tmp_path / word) for word in words]
    folder = tmp_path / "data"
    assert main(["index", "--dataset", "digits", *words, "--output", str(folder)]) == 0
    parquet.write_table(parquet.read_table(folder / "val.parquet").slice(0, 20), folder / "val.parquet")
    dataset = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", dataset | {"dataset_sha256": digest_of(folder)})
    return folder


def digest_of(data: Path) -> str:
    return dataset_sha256(*(Manifest.read(data / f"{split}.parquet") for split in ("train", "val")))


def write_weights(path: Path, data: Path, *, seed: str = "0", note: str = "", without: str = "") -> Path:
    """A weights file of a narrow network for these images; `without` names a tensor that is left out."""
    identity = WeightsIdentity(
        "digits", digest_of(data), "RepVGG-A0", 0.0625, 10, "short", "01234567", seed, 16, note=note
    )
    state = build_model("RepVGG-A0", num_classes=10, width=0.0625).state_dict()
    save_weights(path, {name: tensor for name, tensor in state.items() if name != without}, identity)
    return path


def evaluate(data: Path, results: Path, *files: Path) -> int:
    pairs = [word for file in files for word in ("--weights", str(file), PROTOCOL)]
    words = ["--experiment", "test", *pairs, "--val-manifest", str(data / "val.parquet"), "--device", "cpu"]
    words += ["--predictions", str(results / "predictions"), "--runs", str(results / "runs")]
    return main(["evaluate", *words, "--output", str(results / "accuracy.csv")])


def test_the_note_of_a_weights_file_reaches_run_provenance_and_report(data, tmp_path):
    """A training that differs from the paper's says so in what rests on it, not only in its weights file."""
    torch.manual_seed(0)
    notes = {"0": NOTE, "1": ""}
    files = [write_weights(tmp_path / f"{seed}.safetensors", data, seed=seed, note=notes[seed]) for seed in notes]
    assert evaluate(data, tmp_path / "results", *files) == 0
    found = provenance(tmp_path / "results", data / "dataset.json", {}, "test")
    assert [found["weights"][sha256_of_file(file)].get("note") for file in files] == [NOTE, None]
    assert dict(_facts(found))["notes on weights"] == NOTE


def test_weights_that_do_not_fit_their_network_are_refused_in_one_sentence(data, tmp_path, capsys):
    file = write_weights(tmp_path / "cut.safetensors", data, without="linear.bias")
    capsys.readouterr()
    assert evaluate(data, tmp_path / "results", file) == 2
    assert f"{file} does not fit the network: 1 missing tensors (linear.bias)" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def foreign(path: Path) -> Path:
    """Weights of ten classes from elsewhere, as `weights convert` imports them."""
    torch.manual_seed(0)
    identity = WeightsIdentity("imagenet", "", "RepVGG-A0", 0.0625, 10, "released", "released_01", "none", 16)
    save_weights(path, build_model("RepVGG-A0", num_classes=10, width=0.0625).state_dict(), identity)
    return path


def with_order(data: Path, order: str) -> None:
    """Give the validation manifest another label order; its images and digest stay."""
    manifest = Manifest.read(data / "val.parquet")
    replace(manifest, label_order=order).write(data / "val.parquet")


@pytest.mark.parametrize("order", ["numbers", "names", "shards"])
def test_foreign_weights_are_refused_where_labels_follow_other_names(data, tmp_path, capsys, order):
    with_order(data, order)
    path = foreign(tmp_path / "foreign.safetensors")
    capsys.readouterr()
    assert evaluate(data, tmp_path / "results", path) == 2
    message = capsys.readouterr().err
    assert f"{path} was not trained on dataset digits" in message and "data.labels" in message
    assert message.count("\n") == 1 and not (tmp_path / "results").exists()
    trained = write_weights(tmp_path / "trained.safetensors", data)  # these know their own order
    assert evaluate(data, tmp_path / "results", trained) == 0


@pytest.mark.parametrize("order", ["wnid", "devkit", "labels-file"])
def test_foreign_weights_are_evaluated_where_the_order_is_known(data, tmp_path, order):
    with_order(data, order)
    assert evaluate(data, tmp_path / "results", foreign(tmp_path / "foreign.safetensors")) == 0


def test_a_thousand_other_wnids_are_refused_for_foreign_weights(data, tmp_path):
    synsets = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt"
    wnids = tuple(synsets.read_text().split())
    identity = WeightsIdentity("imagenet", "", "RepVGG-A0", 1.0, 1000, "released", "released_01", "none", 224)
    dataset = {"dataset": "mine", "num_classes": 1000, "dataset_sha256": "0"}
    images = replace(Manifest.read(data / "val.parquet"), label_order="wnid", classes=wnids)
    require_same_classes(tmp_path / "a0.pth", identity, dataset, images)
    other = replace(images, classes=(*wnids[:-1], "n15075142"))
    with pytest.raises(CompanionError, match=r"not the 1000 of ILSVRC2012.*data\.labels"):
        require_same_classes(tmp_path / "a0.pth", identity, dataset, other)
    require_same_classes(tmp_path / "a0.pth", identity, dataset, replace(other, label_order="labels-file"))
    require_same_classes(tmp_path / "a0.pth", replace(identity, dataset_sha256="0"), dataset, other)


def test_numbered_folders_are_refused_from_the_images_on(tmp_path, capsys):
    """The field's case: class folders 0 to 9, as ImageNetV2 ships its thousand, and released weights."""
    for label in range(10):
        for split in ("train", "val"):
            path = tmp_path / split / str(label) / "a.JPEG"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (16, 16), (20 * label, 0, 0 if split == "val" else 9)).save(path)
    folders = ["--train-folder", str(tmp_path / "train"), "--val-folder", str(tmp_path / "val")]
    assert main(["index", "--dataset", "v2", *folders, "--output", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    assert evaluate(tmp_path / "data", tmp_path / "results", foreign(tmp_path / "x.safetensors")) == 2
    assert "whole numbers" in capsys.readouterr().err


def test_pytorch_files_and_negative_variances_are_refused(data, tmp_path, capsys):
    path = write_weights(tmp_path / "x.safetensors", data)
    state, identity = load_weights(path)
    save_weights(path, state | {"stage0.rbr_dense.bn.running_var": -torch.ones(8)}, identity)
    assert evaluate(data, tmp_path / "results", path) == 2
    assert "stage0.rbr_dense.bn.running_var has negative variances" in capsys.readouterr().err
    torch.save(state, tmp_path / "x.pth")
    assert evaluate(data, tmp_path / "results", tmp_path / "x.pth") == 2
    message = capsys.readouterr().err
    assert f"weights convert {tmp_path / 'x.pth'}" in message and "remove" not in message
