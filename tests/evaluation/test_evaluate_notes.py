"""A training that differs from the paper's says so in what rests on it, not only in its weights file."""

import json

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


def test_the_note_of_a_weights_file_reaches_run_provenance_and_report(tmp_path):
    assert main(["make-demo-data", "--output", str(tmp_path)]) == 0
    words = ["--train-archive", "ILSVRC2012_img_train.tar", "--val-archive", "ILSVRC2012_img_val.tar"]
    words += ["--devkit", "ILSVRC2012_devkit_t12.tar.gz"]
    words = [word if word.startswith("--") else str(tmp_path / word) for word in words]
    assert main(["index", "--dataset", "digits", *words, "--output", str(tmp_path / "data")]) == 0
    val, dataset = tmp_path / "data" / "val.parquet", tmp_path / "data" / "dataset.json"
    parquet.write_table(parquet.read_table(val).slice(0, 20), val)
    manifests = [Manifest.read(tmp_path / "data" / f"{split}.parquet") for split in ("train", "val")]
    write_json(dataset, json.loads(dataset.read_text()) | {"dataset_sha256": dataset_sha256(*manifests)})

    torch.manual_seed(0)
    results = tmp_path / "results"
    for seed, note in (("0", NOTE), ("1", "")):
        identity = WeightsIdentity(
            "digits", dataset_sha256(*manifests), "RepVGG-A0", 0.0625, 10, "short", "01234567", seed, 16, note=note
        )
        network = build_model("RepVGG-A0", num_classes=10, width=0.0625)
        save_weights(tmp_path / f"{seed}.safetensors", network.state_dict(), identity)
    pairs = [word for seed in "01" for word in ("--weights", str(tmp_path / f"{seed}.safetensors"), PROTOCOL)]
    words = ["--experiment", "test", *pairs, "--val-manifest", str(val), "--device", "cpu"]
    words += ["--predictions", str(results / "predictions"), "--runs", str(results / "runs")]
    assert main(["evaluate", *words, "--output", str(results / "accuracy.csv")]) == 0
    found = provenance(results, dataset, {}, "test")
    digests = [sha256_of_file(tmp_path / f"{seed}.safetensors") for seed in "01"]
    assert [found["weights"][digest].get("note") for digest in digests] == [NOTE, None]
    assert dict(_facts(found))["notes on weights"] == f"1 x {NOTE}"


PROTOCOL = "resize16-crop16-bilinear-pillow"
