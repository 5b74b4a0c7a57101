"""Every command in the README and in docs/ is dry-run here, every block of YAML is read, every block of Python runs."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import repvgg_companion as rc
from repvgg_companion.__main__ import _parse
from repvgg_companion.experiment.load import load_experiment
from repvgg_companion.files import sha256_of_file
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.results.cards import preprocessing
from repvgg_companion.speed.export import export
from repvgg_companion.weights.writing import write_layout
from repvgg_companion.weights_file import save_weights

from .conftest import PAGES, ROOT, Block, blocks, dry_runs

COMMANDS = [(block, words) for block in blocks("bash") for words in block.commands()]
SHELL = ("cd", "git", ".", "export", "conda", "pip", "pytest", "make", "python", "snakemake")
"""The programs that pages call."""


def distinct(program: str) -> list[list[str]]:
    """The commands of one program, each once."""
    return [list(words) for words in dict.fromkeys(tuple(words) for _, words in COMMANDS if words[0] == program)]


def written() -> set[str]:
    """The experiment files that a page tells its reader to write."""
    return set(re.findall(r"Write `(config/[\w-]+\.yaml)`", "".join(page.read_text() for page in PAGES)))


def test_pages_call_known_programs_and_files_that_are_there():
    assert len(COMMANDS) > 60
    there = written() | {"config/mine.yaml"}
    for block, words in COMMANDS:
        assert words[0] in SHELL, f"{block.page.name}: {' '.join(words)}"
        for name in re.findall(r"(?:config|workflow|tests|environment)[\w/.-]*\.(?:yaml|yml|py)", " ".join(words)):
            assert name in there or (ROOT / name).exists(), f"{block.page.name}: {name}"


def test_every_verb_is_called_with_options_that_it_has():
    calls = distinct("python")
    assert len(calls) > 15
    for words in calls:
        assert words[1:3] == ["-m", "repvgg_companion"], words
        try:
            _parse(words[3:])
        except SystemExit as error:
            assert error.code == 0, " ".join(words)  # --help


def test_a_wrong_option_in_a_page_would_be_found():
    with pytest.raises(SystemExit) as error:
        _parse(["status", "--statte", "x"])
    assert error.value.code == 2


def test_every_make_target_is_there():
    calls = distinct("make")
    assert len(calls) > 10
    for words in calls:
        # A file that the reader is to write is not there; make says so.
        words = ["EXPERIMENT=config/demo.yaml" if word.startswith("EXPERIMENT=") else word for word in words]
        done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def test_every_snakemake_line_can_start(tmp_path):
    # tests/conda runs the line with --use-conda.
    calls = [words[1:] for words in distinct("snakemake") if "--use-conda" not in words]
    wrong, figures = ["--config", "data={zipp: a}"], ["--until", "figures"]
    assert len(calls) > 6
    quiet = [[*words, "--quiet", "all"] for words in (*calls, wrong)]
    statuses, said = dry_runs([*quiet, figures], tmp_path)
    assert statuses == [0] * len(calls) + [1, 0], said
    assert "data.zipp is not a known key" in said
    # Drawing again: Snakemake runs a rule again when an input has changed, and the style is one.
    assert re.search(r"rule figures:\n +input: .*paper/companion\.mplstyle", said)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.page.stem)
def test_every_experiment_file_in_a_page_is_valid(block):
    content = yaml.safe_load(block.text)
    experiment = load_experiment(content, block.page.name)
    assert f"config/{experiment.experiment}.yaml" in written()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with the files that the blocks of Python name, with small or random content."""
    folder = tmp_path_factory.mktemp("python")
    torch.manual_seed(0)
    for name in ("cat.jpg", "flower.jpg"):
        Image.effect_noise((300, 260), 80).convert("RGB").save(folder / name)
    state = rc.build("RepVGG-A0").state_dict()
    write_layout(state, "timm", folder / "data/released/repvgg_a0.rvgg_in1k.safetensors")
    torch.save({f"backbone.{key}": tensor for key, tensor in state.items()}, folder / "detector.pth")
    weights = folder / "results/weights/flowers/RepVGG-A0/01234567/seed0"
    identity = WeightsIdentity("flowers", "", "RepVGG-A0", 0.0625, 2, "short", "01234567", "0", 128, form="deploy")
    module = rc.build("RepVGG-A0", num_classes=2, width=0.0625, form="deploy")
    save_weights(weights / "deploy.safetensors", module.state_dict(), identity)
    sha256 = sha256_of_file(weights / "deploy.safetensors")
    facts = {"classes": ["daisy", "tulip"], "preprocessing": preprocessing("resize144-crop128-bilinear-pillow"),
             "files": {"deploy": {"sha256": sha256}}}  # fmt: skip
    (weights / "config.json").write_text(json.dumps(facts))
    export(weights / "deploy.safetensors", folder / "flower.onnx", n_inputs=2)
    return folder


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: f"{block.page.stem}-{len(block.text)}")
def test_every_block_of_python_runs(block: Block, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    names: dict = {"__name__": "page"}
    exec(compile(block.text, str(block.page), "exec"), names)
    said = capsys.readouterr().out
    if "pixels" in names:  # prepared by hand, without torch
        ours = rc.transform(names["how"]["protocol"])("flower.jpg")
        assert abs(names["batch"][0] - ours.numpy()).max() < 1e-6
    if "print(" in block.text:
        assert said.strip() and "False" not in said
