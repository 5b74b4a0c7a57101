"""A recipe that trains on the packed copy: the workflow makes the copy, and what rests on it says so."""

import copy
import shutil

import pytest

from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.load import load_experiment
from repvgg_companion.experiment.paths import weights_of
from repvgg_companion.weights_file import load_weights

from .conftest import MICRO, snakemake, write_config


def packed_config(label: str = "short24-q90", name: str = "micro-packed") -> dict:
    config = copy.deepcopy(MICRO)
    config["recipes"] = {name: {**MICRO["recipes"]["micro-1-epoch"], "packed": label, "decoder": "opencv"}}
    config["training"] = [{"models": ["RepVGG-A0"], "recipe": name, "width": 0.125}]
    return config


def test_the_packed_copy_is_made_trained_on_and_named(micro, tmp_path):
    folder, config = tmp_path / "copy", packed_config()
    shutil.copytree(micro, folder, symlinks=True)
    (weights,) = weights_of(load_experiment(config, "test"))
    snakemake(folder, weights.file("train"), "--configfile", write_config(folder, config, "packed.yaml"))
    manifest = Manifest.read(folder / "results/data/demo-digits/packed/short24-q90/train.parquet")
    assert manifest.packed == "short24-q90" and len(manifest) == len(
        Manifest.read(folder / "results/data/demo-digits/train.parquet")
    )
    _, identity = load_weights(folder / weights.file("train"))
    assert "packed copy short24-q90" in identity.note and identity.recipe == "micro-packed"


def test_every_label_is_a_training_of_its_own():
    digests = {
        weights_of(load_experiment(packed_config(label), "test"))[0].digest
        for label in ("short24-q90", "short24-q80", "")
    }
    assert len(digests) == 3


def test_the_recipes_name_says_packed():
    with pytest.raises(CompanionError, match="its name must say so"):
        load_experiment(packed_config(name="micro-small"), "test")
