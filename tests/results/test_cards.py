"""Model cards: every fact of config.json is that of the rows and files, and the card says it."""

import json
from pathlib import Path

import pytest
import torch

import repvgg_companion as rc
from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.files import sha256_of_file, write_json
from repvgg_companion.identity import FACTS_SUFFIX, WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.results.card_text import card_text
from repvgg_companion.training.job.publish import training_facts
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.weights_file import load_weights, save_weights

PROTOCOL = "resize36-crop32-bilinear-pillow"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder with an evaluated network of two classes, and one that cannot be converted."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("cards")
    for split in ("train", "val"):
        for name in ("daisy", "tulip"):
            for number in range(3):
                path = folder / "images" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((40, 36), 60 + number).convert("RGB").save(path)
    images = ["--train-folder", str(folder / "images/train"), "--val-folder", str(folder / "images/val")]
    assert main(["index", "--dataset", "flowers", *images, "--output", str(folder / "data")]) == 0
    facts = json.loads((folder / "data/dataset.json").read_text())
    torch.manual_seed(0)
    for model in ("RepVGG-A0", "RepVGG-B0_relu-in-branch"):
        identity = WeightsIdentity(
            "flowers", facts["dataset_sha256"], model, 0.0625, 2, "short", "01234567", "0", 32, note="a note"
        )
        state = build_model(model, num_classes=2, width=0.0625).state_dict()
        save_weights(folder / model / "train.safetensors", state, identity)
    common = ["--experiment", "flowers", "--val-manifest", str(folder / "data/val.parquet"), "--device", "cpu"]
    common += ["--runs", str(folder / "runs")]
    assert main(["reparameterize", *common, "--weights", str(folder / "RepVGG-A0/train.safetensors"), "--images", "4",
                 "--protocol", PROTOCOL, "--output", str(folder / "reparameterization.csv")]) == 0  # fmt: skip
    files = [folder / "RepVGG-A0/train.safetensors", folder / "RepVGG-A0/deploy.safetensors",
             folder / "RepVGG-B0_relu-in-branch/train.safetensors"]  # fmt: skip
    named = [word for path in files for word in ("--weights", str(path), PROTOCOL)]
    assert main(["evaluate", *common, *named, "--predictions", str(folder / "predictions"),
                 "--output", str(folder / "accuracy.csv")]) == 0  # fmt: skip
    write_json(folder / "experiment.json", {"experiment": "flowers", "recipes": {"short": {"epochs": 3}}})
    return folder


def cards(results: Path, *models: str) -> int:
    folders = [str(results / model) for model in models]
    return main(["cards", "--weights", *folders, "--results", str(results),
                 "--val-manifest", str(results / "data/val.parquet"),
                 "--configuration", str(results / "experiment.json")])  # fmt: skip


def test_the_card_and_its_facts_are_those_of_rows_and_files(results):
    assert cards(results, "RepVGG-A0") == 0
    folder = results / "RepVGG-A0"
    facts, card = json.loads((folder / "config.json").read_text()), (folder / "README.md").read_text()
    assert facts["classes"] == list(Manifest.read(results / "data/val.parquet").class_names) == ["daisy", "tulip"]
    assert facts["structure"]["layers"] == [1, 2, 4, 14, 1] and facts["training"]["settings"] == {"epochs": 3}
    for form in ("train", "deploy"):
        path = folder / f"{form}.safetensors"
        params = sum(parameter.numel() for parameter in rc.load(path, form=form).parameters())
        assert facts["files"][form] == {"file": path.name, "sha256": sha256_of_file(path), "params": params}
        assert facts["files"][form]["sha256"] in card and f"{params:,}" in card
    rows = read_rows(results / "accuracy.csv", "accuracy")
    assert [row["top1_pct"] for row in facts["accuracy"]] == [
        row["top1_pct"] for row in rows if row["model"] == "RepVGG-A0"
    ]
    row = facts["accuracy"][0]
    assert f"{row['top1_pct']:.2f} [{row['top1_low_pct']:.2f}, {row['top1_high_pct']:.2f}]" in card
    assert facts["certificate"]["passed"] is True and "passed its checks on 4 images" in card
    for said in (
        "short side is resized to 36 px",
        "central 32 px",
        "0.485",
        "01234567",
        "Noted with these weights: a note.",
        "MIT licence",
        PROTOCOL,
    ):
        assert said in card, said
    assert "top-5" not in card, "of two classes every answer is among the first five"
    assert "top-5" in card_text(facts | {"num_classes": 6})


def test_the_card_says_what_the_first_start_decided(results):
    folder, recipe = results / "RepVGG-A0", Recipe(epochs=3, memory_format="contiguous")
    asked = {"experiment": "flowers", "recipes": {"short": recipe.as_dict()}}
    decided = {"precision": "bf16", "memory_format": "contiguous", "threads": 2, "device_type": "cpu"}
    state = StateFolder(results / "state")
    state.folder.mkdir(exist_ok=True)
    state.begin({}, recipe, decided)
    _, identity = load_weights(folder / "train.safetensors")
    write_json(folder / f"train{FACTS_SUFFIX}", training_facts(state, identity))
    configuration = results / "experiment.json"
    before = configuration.read_bytes()
    try:
        write_json(configuration, asked)
        assert cards(results, "RepVGG-A0") == 0
        card = (folder / "README.md").read_text()
        assert "| precision | bf16 (the recipe: auto; decided at the first start) |" in card
        assert "| threads | 2 (the recipe: 0; decided at the first start) |" in card
        assert "| memory_format | contiguous |" in card
        assert json.loads((folder / "config.json").read_text())["training"]["decided"] == decided
    finally:
        configuration.write_bytes(before)
        (folder / f"train{FACTS_SUFFIX}").unlink()
    assert cards(results, "RepVGG-A0") == 0
    assert "decided" not in (folder / "README.md").read_text(), "an older training has no file that says it"


def test_the_code_in_the_card_runs(results, monkeypatch, capsys):
    assert cards(results, "RepVGG-A0") == 0
    monkeypatch.chdir(results / "RepVGG-A0")
    code = Path("README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace("image.jpg", str(results / "images/val/daisy/0.png")), {})
    assert capsys.readouterr().out.strip() in ("daisy", "tulip")


def test_a_network_without_a_deploy_form_says_why(results):
    assert cards(results, "RepVGG-B0_relu-in-branch") == 0
    folder = results / "RepVGG-B0_relu-in-branch"
    assert json.loads((folder / "config.json").read_text())["certificate"] is None
    assert "There is none: the ReLU inside each branch is not linear" in (folder / "README.md").read_text()


def test_what_is_missing_is_one_sentence(results, capsys, tmp_path):
    state, identity = load_weights(results / "RepVGG-A0/train.safetensors")
    save_weights(results / "other/train.safetensors", {**state, "linear.bias": state["linear.bias"] + 1}, identity)
    assert cards(results, "other") == 2
    assert "no accuracy of the weights in" in capsys.readouterr().err
    assert cards(results, "data") == 2
    assert "holds neither train.safetensors nor deploy.safetensors" in capsys.readouterr().err
