"""The doctor finds what is planted, and says what to do."""

import importlib.metadata
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections import namedtuple
from dataclasses import replace

import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment import doctor
from repvgg_companion.experiment.doctor import DoctorRequest, diagnoses
from repvgg_companion.experiment.load import read_experiment, require_backbones
from repvgg_companion.experiment.train_images import require_form, require_train_images
from repvgg_companion.files import write_json
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.weights_file import save_weights

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
    with zipfile.ZipFile(there, "w") as archive:
        archive.writestr("train/a/1.jpg", bytes(1 << 20))
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


def _images_of_all_kinds(tmp_path) -> None:
    for place in ("pets/train/cat/1.png", "pets/train/dog/1.png", "pets/val/cat/2.png", "flat/1.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose" / "cat").mkdir(parents=True)
    (tmp_path / "loose" / "1.png").touch()
    (tmp_path / "text").write_text("no archive at all")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(tmp_path / "pets", "pets")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.writestr("train/cat/1.png", bytes(2000))


FOLDERS = {"train_folder": "pets/train", "val_folder": "pets/val"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            FOLDERS | {"train_folder": "pets.tar"},
            "data.train_folder: .*pets.tar is a file instead of a folder; extract",
        ),
        (
            FOLDERS | {"val_folder": "pets.zip"},
            "data.val_folder: .*is a file instead of a folder; name a zip with --zip",
        ),
        (FOLDERS | {"train_folder": "pets"}, "pets holds folder 'train' instead of class folders; name that split's"),
        (FOLDERS | {"val_folder": "pets"}, "pets holds folder 'train' instead of class folders"),
        (FOLDERS | {"train_folder": "flat"}, "holds images in class folders and '1.png' in none"),
        (FOLDERS | {"val_folder": "flat"}, "holds its images without class folders, so their labels come from the dev"),
        (FOLDERS | {"train_folder": "loose"}, "'1.png' in none, so its class is unknown"),
        (FOLDERS | {"train_folder": "empty"}, "holds no class folders; put the images of each class"),
        (FOLDERS | {"num_classes": 5}, "mine has 2 classes instead of 5; correct --num-classes"),
        (FOLDERS | {"classes": ["cat", "cow"]}, "mine has no class cow"),
        (FOLDERS | {"train_folder": "pets/val", "val_folder": "pets/train"}, "validation class dog is not a class of"),
        (FOLDERS | {"labels": "text"}, "text does not name 'cat'"),
        ({"zip": "pets.tar"}, "data.zip: .*is a tar, not a zip; extract it and name the folders"),
        ({"zip": "text"}, "is not a zip"),
        ({"zip": "pets"}, "is a folder instead of an archive"),
        ({"val_archive": "pets.zip"}, "is not a tar archive .*; name a zip with --zip"),
        ({"val_archive": "text"}, "data.val_archive: .*text is not a tar archive|truncated"),
        (FOLDERS | {"devkit_archive": "text"}, "text is not a tar archive; ILSVRC2012_devkit"),
        ({"cifar_archive": "text"}, "text is not a tar archive; name cifar-10-binary"),
        ({"kaggle_folder": "empty"}, "holds no ILSVRC/Data/CLS-LOC/train or val"),
        ({"parquet_folder": "empty"}, "holds no shard called validation"),
        ({"cityscapes_folder": "empty"}, "holds no folder leftImg8bit/train"),
    ],
)
def test_images_of_another_form_are_refused_by_doctor_and_by_the_start_of_a_run(data, said, tmp_path):
    _images_of_all_kinds(tmp_path)
    places = {key: str(tmp_path / place) if isinstance(place, str) else place for key, place in data.items()}
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"experiment": "mine", "data": {"dataset": "mine", **places}}))
    sentence = _refusal(lambda: require_form(read_experiment(file), str(file)))
    assert sentence.startswith(f"{file}: data") and re.search(said, sentence)
    diagnoses_of_images = list(diagnoses(DoctorRequest(tmp_path, file)))
    text, _, remedy = sentence.partition("; ")
    (found,) = (one for one in diagnoses_of_images if one.text == text)
    assert (found.state, found.remedy) == ("missing", remedy)


@pytest.mark.parametrize(
    "data", [FOLDERS, FOLDERS | {"num_classes": 2}, {"zip": "pets.zip"}, {"val_archive": "pets.tar"}]
)
def test_images_of_the_right_form_pass(data, tmp_path):
    _images_of_all_kinds(tmp_path)
    (tmp_path / "pets/train/.thumbs").mkdir()
    (tmp_path / "pets/train/notes.txt").touch()
    places = {key: str(tmp_path / place) if isinstance(place, str) else place for key, place in data.items()}
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"experiment": "mine", "data": {"dataset": "mine", **places}}))
    require_form(read_experiment(file), str(file))
    assert _found(tmp_path, file)["images"].state == "ok" and "classes" not in _found(tmp_path, file)


def test_a_file_to_start_from_that_holds_no_weights_of_this_network(tmp_path):
    _images_of_all_kinds(tmp_path)
    file, start = tmp_path / "mine.yaml", tmp_path / "start.safetensors"
    group = {"models": ["RepVGG-A0"], "recipe": "short", "backbones": {"RepVGG-A0": str(start)}}
    recipe = {"epochs": 1, "global_batch_size": 1, "batch_norm_batch_size": 1}
    data = {"dataset": "mine"} | {key: str(tmp_path / place) for key, place in FOLDERS.items()}
    file.write_text(json.dumps({"experiment": "mine", "data": data, "recipes": {"short": recipe}, "training": [group]}))
    shutil.copy(tmp_path / "pets.tar", start)
    assert "is damaged or not a safetensors file" in _found(tmp_path, file)["backbones"].text
    identity = WeightsIdentity("d", "", "RepVGG-A1", 1.0, 2, "short", "0" * 8, "0", 32)
    save_weights(start, {}, identity)
    assert (
        "holds the train form of RepVGG-A1, but this training is of RepVGG-A0"
        in _found(tmp_path, file)["backbones"].text
    )
    save_weights(start, {}, replace(identity, model="RepVGG-A0"))
    assert "backbones" not in _found(tmp_path, file)
    save_weights(start, {}, replace(identity, model="RepVGG-A0", width=0.25))
    said = _found(tmp_path, file)["backbones"].text
    assert "has width 0.25, but this training is of RepVGG-A0 at width 1" in said
    # Channels are multiples of 8, so these two factors give the same network.
    file.write_text(
        file.read_text().replace('"recipe": "short", "backbones"', '"recipe": "short", "width": 0.01, "backbones"')
    )
    save_weights(start, {}, replace(identity, model="RepVGG-A0", width=0.011))
    assert "backbones" not in _found(tmp_path, file)


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
