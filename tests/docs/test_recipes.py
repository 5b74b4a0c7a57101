"""The recipes of the pages, step by step on small files: own images, fine-tuning, own variant, export.

The experiment files are those of the pages, with one epoch and small batches. Each job is the verb that its rule calls.
"""

import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import repvgg_companion as rc
from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.experiment.experiment_file import Experiment
from repvgg_companion.experiment.load import load_experiment
from repvgg_companion.experiment.paths import recipe_json, resolved_file, source_options, weights_of, write_resolved
from repvgg_companion.files import sha256_of_file
from repvgg_companion.weights.writing import write_layout
from repvgg_companion.weights_file import load_weights

from .conftest import PAGES, ROOT, page_blocks


def test_every_recipe_has_at_most_five_steps():
    for page in PAGES:
        if page.parent.name == "docs":
            for section in re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE):
                assert len(re.findall(r"^\d+\. ", section, re.MULTILINE)) <= 5, f"{page.name}: {section[:40]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a few images of two classes, and released weights of RepVGG-A0 in timm's layout."""
    folder = tmp_path_factory.mktemp("recipes")
    generator = torch.Generator().manual_seed(0)
    for place in ("flowers/train", "flowers/val", "cifar10/train", "cifar10/test"):
        side = 32 if "cifar" in place else 150
        for number in range(8 if "train" in place else 4):
            name = ("daisy", "tulip")[number % 2]
            path = folder / "data" / place / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.rand((side, side, 3), generator=generator) * 100 + 100 * (number % 2)
            Image.fromarray(pixels.byte().numpy()).save(path)
    torch.manual_seed(0)
    write_layout(rc.build("RepVGG-A0").state_dict(), "timm", folder / "data/released/repvgg_a0.rvgg_in1k.safetensors")
    (folder / "paper").symlink_to(ROOT / "paper")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def command(page: str, verb: str, **filled: str) -> list[str]:
    """The words after `python -m repvgg_companion` of the first command of a page that calls a verb."""
    for block in page_blocks(page, "bash"):
        for words in block.commands():
            if words[3:4] == [verb] or words[3:5] == verb.split():
                return [
                    re.sub("|".join(filled) or "$^", lambda found: filled[found.group()], word) for word in words[3:]
                ]
    raise AssertionError(f"{page} calls no {verb}")


def experiment_of(page: str, name: str) -> Experiment:
    """An experiment file of a page, with one epoch and small batches."""
    content = next(content for block in page_blocks(page, "yaml")
                   if (content := yaml.safe_load(block.text))["experiment"] == name)  # fmt: skip
    for recipe in content["recipes"].values():
        recipe |= {"epochs": 1, "global_batch_size": 8, "batch_norm_batch_size": 8, "precision": "fp32", "threads": 1,
                   "memory_format": "contiguous"}  # fmt: skip
    return load_experiment(content, page)


def make(experiment: Experiment) -> Path:
    """What `make EXPERIMENT=FILE` does up to the model cards, in this process; returns the folder of the weights."""
    name, data = experiment.experiment, Path("results/data") / experiment.experiment
    results = Path("results") / name
    sources = [word for pair in source_options(experiment, "").items() for word in pair]
    assert main(["index", "--dataset", experiment.data.dataset, *sources, "--output", str(data)]) == 0
    (weights,) = weights_of(experiment)
    train = {
        "--experiment": name, "--dataset": experiment.data.dataset, "--model": weights.model, "--width": weights.width,
        "--recipe-name": weights.recipe, "--recipe": recipe_json(experiment, weights.recipe),
        "--training-digest": weights.digest, "--seed": weights.seed, "--train-manifest": data / "train.parquet",
        "--val-manifest": data / "val.parquet", "--state": weights.state, "--output": weights.file("train"),
        "--history": weights.history, "--device": "cpu",
    }  # fmt: skip
    if weights.backbone:
        train["--backbone"] = weights.backbone
    assert main(["train", *(str(word) for pair in train.items() for word in pair)]) == 0
    common = ["--experiment", name, "--val-manifest", str(data / "val.parquet"), "--runs", str(results / "runs"),
              "--device", "cpu"]  # fmt: skip
    assert main(["reparameterize", *common, "--weights", weights.file("train"), "--protocol", weights.protocol,
                 "--images", "4", "--output", str(results / "reparameterization.csv")]) == 0  # fmt: skip
    named = [word for form in ("train", "deploy") for word in ("--weights", weights.file(form), weights.protocol)]
    assert main(["evaluate", *common, *named, "--predictions", str(results / "predictions"),
                 "--output", str(results / "accuracy.csv")]) == 0  # fmt: skip
    write_resolved(experiment)
    assert main(["cards", "--weights", weights.folder, "--results", str(results), "--val-manifest",
                 str(data / "val.parquet"), "--configuration", resolved_file(experiment)]) == 0  # fmt: skip
    return Path(weights.folder)


def test_own_images_then_fine_tuning_then_the_comparison(folder, capsys):
    first = make(experiment_of("own-data.md", "flowers"))
    card = json.loads((first / "config.json").read_text())
    assert card["classes"] == ["daisy", "tulip"] and card["certificate"]["passed"] and card["num_classes"] == 2

    assert main(command("own-data.md", "weights convert")) == 0
    start = Path("data/start/RepVGG-A0.safetensors")
    tuned = make(experiment_of("own-data.md", "flowers-tuned"))
    before, _ = load_weights(start)
    after, identity = load_weights(tuned / "train.safetensors")
    assert after["linear.weight"].shape[0] == 2 != before["linear.weight"].shape[0]
    assert identity.backbone_sha256 == sha256_of_file(start) and identity.training_digest != first.parts[-2]
    frozen = [key for key in before if key.startswith(("stage0.", "stage1."))]
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    assert not torch.equal(before["stage4.0.rbr_dense.conv.weight"], after["stage4.0.rbr_dense.conv.weight"])
    assert json.loads((tuned / "config.json").read_text())["training"]["settings"]["frozen_stages"] == 2
    capsys.readouterr()
    assert main(command("own-data.md", "compare")) == 0
    assert "flowers-tuned" in capsys.readouterr().out


def test_own_variant_is_counted_trained_certified_evaluated_timed_and_exported(folder, capsys):
    assert main(command("own-variant.md", "count-complexity")) == 0
    rows = read_rows("results/mine/complexity.csv", "complexity")
    assert {row["form"] for row in rows} == {"train", "deploy"}
    experiment = experiment_of("own-variant.md", "mine")
    weights = make(experiment)
    model = experiment.training[0].models[0]
    assert weights.parts[-3] == model == rows[0]["model"]
    facts = json.loads((weights / "config.json").read_text())
    assert facts["structure"]["strides"] == [1, 1, 2, 2, 2] and facts["certificate"]["passed"]
    plan = json.loads(Path(resolved_file(experiment)).read_text())["speed"]
    plan |= {"baselines": ["ResNet-18"], "roofline": False, "threads": 1}
    measured = ["--output", "results/mine/speed.csv", "--samples", "results/mine/speed", "--runs", "results/mine/runs"]
    assert main(["measure-speed", "--experiment", "mine", "--plan", json.dumps(plan), *measured]) == 0
    assert {(row["model"], row["form"]) for row in read_rows("results/mine/speed.csv", "speed")} == {
        (model, "train"), (model, "deploy"), ("ResNet-18", "deploy"),
    }  # fmt: skip
    pytest.importorskip("onnxruntime")
    assert main(command("own-variant.md", "export", DIGEST=weights.parts[-2])) == 0
    assert "passed True" in capsys.readouterr().out and Path("mine.onnx").exists()


def test_the_released_weights_are_inspected_and_brought_into_another_layout(folder, capsys):
    assert (
        main([*command("released-weights.md", "weights inspect")[:-1], *map(str, Path("data/released").iterdir())]) == 0
    )
    assert "RepVGG-A0, train form, timm layout" in capsys.readouterr().out
    assert main(command("released-weights.md", "weights convert")) == 0
    assert rc.load("RepVGG-A0-official.pth", form="train").linear.out_features == 1000
