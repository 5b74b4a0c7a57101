"""What the verb `evaluate` tells and refuses about the weights files that it is given."""

import json
from pathlib import Path

import pytest
import torch
from pyarrow import parquet

from repvgg_companion.__main__ import main
from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.files import sha256_of_file, write_json
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.results.provenance import provenance
from repvgg_companion.results.report import _facts
from repvgg_companion.weights_file import save_weights

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
    assert dict(_facts(found))["notes on weights"] == f"1 x {NOTE}"


def test_weights_that_do_not_fit_their_network_are_refused_in_one_sentence(data, tmp_path, capsys):
    file = write_weights(tmp_path / "cut.safetensors", data, without="linear.bias")
    capsys.readouterr()
    assert evaluate(data, tmp_path / "results", file) == 2
    assert f"{file} does not fit the network: 1 missing tensors (linear.bias)" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
