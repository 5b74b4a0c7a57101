"""Table 8 by the workflow: config/cityscapes.yaml on a tiny tree and narrow networks, from the folder to the table."""

import csv
import subprocess
import sys

import pytest
import yaml
from cityscapes_tree import write_tree

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.load import load_experiment
from repvgg_companion.experiment.paths import weights_of

from .conftest import ROOT, snakemake, write_config

PX, WIDTH = 65, 0.0625


def published() -> dict:
    return yaml.safe_load((ROOT / "config" / "cityscapes.yaml").read_text(encoding="utf-8"))


def narrow(tree) -> dict:
    """The published experiment with a small image, few epochs, narrow networks and random backbones."""
    config = published()
    config["data"] |= {"dataset": "tiny-cityscapes", "cityscapes_folder": str(tree)}
    small = {"epochs": 2, "global_batch_size": 4, "batch_norm_batch_size": 2, "input_px": PX, "learning_rate": 0.05,
             "validation": f"slide{PX}-pillow", "precision": "fp32", "memory_format": "channels_last",
             "threads": 1}  # fmt: skip
    config["recipes"]["cityscapes-40-epochs"] |= small
    config["recipes"] = {"cityscapes-2-epochs": config["recipes"]["cityscapes-40-epochs"]}
    models = ["PSPNet-RepVGG-B1g2_fast", "PSPNet-ResNet-50"]
    config["training"] = [{"models": models, "recipe": "cityscapes-2-epochs", "width": WIDTH,
                           "backbones": {"RepVGG-B1g2": "random", "ResNet-50": "random"}}]  # fmt: skip
    config["evaluation"] = {"protocol": f"slide{PX}-pillow"}
    config["reparameterization_inputs"] = 2
    config["execution"] = {"models_per_job": 2}
    del config["segmentation_speed"]
    return config


@pytest.mark.slow
def test_from_the_folder_to_table_8(tmp_path):
    tree = write_tree(tmp_path / "tree")
    config = narrow(tree)
    snakemake(tmp_path, "--configfile", write_config(tmp_path, config, "cityscapes.yaml"))
    results = tmp_path / "results" / "cityscapes"
    rows = read_rows(results / "segmentation.csv", "segmentation")
    assert {(row["model"], row["form"]) for row in rows} == {
        (model, form) for model in config["training"][0]["models"] for form in ("train", "deploy")
    }
    certificates = read_rows(results / "reparameterization.csv", "reparameterization")
    assert len(certificates) == 2 and all(row["passed"] for row in certificates)
    with (results / "tables" / "table8.csv").open(encoding="utf-8", newline="") as stream:
        table = {row["model"]: row for row in csv.DictReader(stream)}
    done = table["PSPNet-RepVGG-B1g2_fast"]
    assert float(done["small_mean_iou_pct"]) == next(
        row["mean_iou_pct"] for row in rows if row["model"] == done["model"] and row["form"] == "deploy"
    )
    assert done["ours_mean_iou_pct"] == "" and "decides nothing about Table 8" in done["note"]
    assert done["conversion_certified"] == "yes"
    claims = {row["id"]: row for row in read_rows(results / "claims.csv", "claims")}
    assert claims["C48"]["verdict_number"] == "not tested" and "tiny-cityscapes" in claims["C48"]["reason"]
    assert "mIoU" in (results / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "results" / "data" / "tiny-cityscapes" / "cache").exists()


def test_the_published_experiment_is_table_8():
    experiment = load_experiment(published(), "config/cityscapes.yaml")
    with (ROOT / "paper" / "table8_cityscapes.csv").open(encoding="utf-8", newline="") as stream:
        printed = [row["model"] for row in csv.DictReader(stream)]
    assert [weights.model for weights in weights_of(experiment)] == printed
    (recipe,) = experiment.recipes.values()
    assert (recipe.epochs, recipe.global_batch_size, recipe.learning_rate, recipe.weight_decay) == (40, 16, 0.01, 1e-4)
    assert (recipe.schedule, recipe.poly_power, recipe.input_px, recipe.momentum) == ("poly", 0.9, 713, 0.9)


def test_the_start_of_the_backbone_belongs_to_the_identity(tmp_path):
    config = published()
    before = [weights.digest for weights in weights_of(load_experiment(config, "test"))]
    path = tmp_path / "backbone.safetensors"
    config["training"][0]["backbones"]["RepVGG-B2"] = str(path)
    digests = []
    for content in (None, b"one", b"two"):
        if content is not None:
            path.write_bytes(content)
        digests.append([weights.digest for weights in weights_of(load_experiment(config, "test"))])
    changed = [[old != new for old, new in zip(before, after, strict=True)] for after in digests]
    assert changed == [[False, False, False, True, False, True]] * 3
    assert len({tuple(found) for found in digests}) == 3


def without(config: dict, key: str) -> dict:
    config["training"][0]["backbones"].pop(key)
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: without(c, "RepVGG-B2"), "backbones names no weights for it"),
        (lambda c: c["training"][0]["backbones"].update({"RepVGG-A0": "x"}), "no model of the group starts from"),
        (lambda c: c["training"].append({"models": ["RepVGG-A0"], "recipe": "cityscapes-40-epochs"}), "has label maps"),
        (lambda c: c["evaluation"].update(protocol="crop713-bilinear-pillow"), "write a protocol such as slide713"),
        (lambda c: c["data"].update(zip="x.zip"), "the images are named twice, by zip and by cityscapes_folder"),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(change, message):
    config = published()
    change(config)
    with pytest.raises(CompanionError, match=message) as caught:
        load_experiment(config, "test")
    assert "\n" not in str(caught.value)


def test_a_missing_backbone_stops_before_anything_is_trained(tmp_path):
    config = narrow(write_tree(tmp_path / "tree", train=4, val=2))
    config["training"][0]["backbones"]["ResNet-50"] = "nowhere/ResNet-50.safetensors"
    path = write_config(tmp_path, config, "cityscapes.yaml")
    done = snakemake(tmp_path, "--configfile", path, check=False)
    assert done.returncode and "nowhere/ResNet-50.safetensors, which does not exist" in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()
    planned = snakemake(tmp_path, "--dry-run", "--configfile", path)
    assert "evaluate-segmentation" in planned.stdout or "rule train" in planned.stdout


def test_the_verb_is_in_the_jobs_of_a_bare_machine():
    done = subprocess.run(
        [sys.executable, "-m", "repvgg_companion", "evaluate-segmentation", "--help"], capture_output=True, text=True,
        check=True, env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "slide713-pillow" in done.stdout
