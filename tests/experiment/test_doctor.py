"""The doctor finds what is planted, and says what to do."""

import importlib.metadata
import json
import os
import re
import shutil
from collections import namedtuple

import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment import doctor
from repvgg_companion.experiment.doctor import DoctorRequest, diagnoses
from repvgg_companion.experiment.load import read_experiment, require_backbones
from repvgg_companion.experiment.train_images import require_train_images
from repvgg_companion.files import write_json

Usage = namedtuple("Usage", "total used free")


def _found(folder, experiment=None):
    return {diagnosis.subject: diagnosis for diagnosis in diagnoses(DoctorRequest(folder, experiment))}


def test_this_machine_is_in_order_or_says_why(root, tmp_path, capsys):
    status = main(["doctor", str(root / "config" / "demo.yaml"), "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    assert status == (2 if "missing  " in said else 0)
    assert "ok       Python: 3." in said
    assert "ok       the workflow: all packages are installed" in said
    assert "ok       images: " in said and "makes its own" in said
    assert f"ok       file locks: the file system of {tmp_path} has them" in said
    assert list(tmp_path.iterdir()) == []
    assert re.search(r"\d+ in order, (1 note|(\d\d|[02-9]) notes), \d+ missing\.", said)


def test_too_little_of_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2, 1, 64 << 20))
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda kind: (256, 256))
    found = _found(tmp_path)
    assert found["shared memory"].state == "missing" and "--shm-size" in found["shared memory"].remedy
    assert found["open files"].state == "note" and "at most 256" in found["open files"].text
    assert found["disk"].state == "note" and "0.1 GiB free" in found["disk"].text
    assert "packages" not in found["disk"].remedy, "they are installed"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert "the packages take 6 GiB" in _found(tmp_path)["disk"].remedy


def test_a_disk_with_room_for_results_is_enough_once_the_packages_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(8 << 30, 3 << 30, 5 << 30))
    assert _found(tmp_path)["disk"].state == "ok"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert _found(tmp_path)["disk"].state == "note"


def test_torch_and_torchvision_that_are_no_pair(tmp_path, monkeypatch):
    versions = {"torch": "2.11.0+cu128", "torchvision": "0.25.1"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    found = _found(tmp_path)["torch and torchvision"]
    assert found.state == "missing" and "torchvision 0.26" in found.remedy


def test_a_driver_that_torch_cannot_use(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 470.57.02\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = _found(tmp_path)["GPU"]
    assert found.state == "missing" and "driver 470.57.02" in found.text and found.remedy


def test_missing_packages_a_broken_link_and_a_lock(tmp_path, monkeypatch):
    real = doctor.importlib.util.find_spec
    absent = {"snakemake", "openvino", "torch"}
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "Snakefile").touch()
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.input.lock").touch()
    found = _found(tmp_path)
    assert found["the workflow"].state == "missing" and found["the workflow"].text == "snakemake not installed"
    assert found["speed with OpenVINO"].state == "note"
    assert found["Snakemake's default profile"].state == "missing"
    assert found["lock of the workflow"].remedy.endswith("make unlock")
    assert "torch and torchvision" not in found


def test_images_that_are_not_there_and_that_are(root, tmp_path):
    config = (root / "config" / "tiny-imagenet.yaml").read_text()
    there = tmp_path / "tiny-imagenet-200.zip"
    line = next(line for line in config.splitlines() if line.strip().startswith("zip:"))
    file = tmp_path / "mine.yaml"
    file.write_text(config.replace(line, f"  zip: {there}"))
    found = _found(tmp_path, file)["images"]
    assert found.state == "missing" and str(there) in found.text and str(file) in found.remedy
    there.write_bytes(bytes(1 << 20))
    found = _found(tmp_path, file)["images"]
    assert found.state == "ok" and "MB/s" in found.text


def test_what_a_run_would_refuse_at_its_start_is_said_in_its_words(tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / split / "daisy").mkdir(parents=True)
        (tmp_path / split / "daisy" / "1.png").touch()
    file, recipe = tmp_path / "mine.yaml", {"epochs": 1, "global_batch_size": 4, "batch_norm_batch_size": 4}
    experiment = {
        "experiment": "mine",
        "data": {"dataset": "d", "train_folder": str(tmp_path / "train"), "val_folder": str(tmp_path / "val")},
        "recipes": {"short": recipe},
        "training": [{"models": ["RepVGG-A0"], "recipe": "short", "backbones": {"RepVGG-A0": str(tmp_path / "no")}}],
    }
    file.write_text(json.dumps(experiment))
    assert main(["doctor", str(file), "--folder", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    for sentence in (
        _refusal(lambda: require_train_images(read_experiment(file), str(file), tmp_path / "none")),
        _refusal(lambda: require_backbones(read_experiment(file), str(file))),
    ):
        assert sentence.replace("; ", "\n         -> ", 1) in said
    assert f"missing  batch: {file}: a batch of 4 is larger than the training set of 1 image\n" in said

    recipe |= {"global_batch_size": 1, "batch_norm_batch_size": 1}
    del experiment["training"][0]["backbones"]
    file.write_text(json.dumps(experiment))
    main(["doctor", str(file), "--folder", str(tmp_path)])
    assert not re.search("batch|backbones", capsys.readouterr().out)


def test_an_index_in_the_folder_of_the_results_is_believed(root, tmp_path):
    """The demo makes its images; an earlier run indexed fewer than a batch of 32."""
    assert "batch" not in _found(tmp_path, root / "config/demo.yaml")
    facts = {"train": {"n_images": 31}, "sources": [], "chosen_classes": []}
    write_json(tmp_path / "results/data/demo-digits/dataset.json", facts)
    found = _found(tmp_path, root / "config/demo.yaml")["batch"]
    assert "a batch of 32 is larger than the training set of 31 images" in found.text
    assert found.remedy.startswith("set a smaller global_batch_size in the recipe demo-")


def _refusal(check) -> str:
    with pytest.raises(CompanionError) as caught:
        check()
    return str(caught.value)


def test_a_folder_that_is_none(tmp_path, capsys):
    assert main(["doctor", "--folder", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_an_experiment_that_is_no_file_is_refused_before_the_list(tmp_path, capsys):
    for path, said in ((tmp_path, "is a folder; name an experiment file in it"), (tmp_path / "nope.yaml", "not exist")):
        assert main(["doctor", str(path)]) == 2
        told = capsys.readouterr()
        assert told.out == "" and f"{path} " in told.err and said in told.err
