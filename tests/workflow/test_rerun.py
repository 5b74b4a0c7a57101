"""What is made again, and what is not: weights cost weeks, figures cost seconds."""

import base64
import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from repvgg_companion.contract import read_rows
from repvgg_companion.files import sha256_of_file

from .conftest import MICRO, ROOT, snakemake, write_config


def planned(done: subprocess.CompletedProcess) -> dict[str, int]:
    """How often each rule would run, from the job statistics of a dry run."""
    text = done.stdout + done.stderr
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def dry_run(folder: Path, config: dict, name: str) -> dict[str, int]:
    return planned(snakemake(folder, "--dry-run", "--configfile", write_config(folder, config, name)))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of_file(path)
        for path in sorted((folder / "results/weights").rglob("train.safetensors"))
    }


def test_a_changed_recipe_trains_its_model_and_a_new_seed_trains_that_seed(micro):
    config = copy.deepcopy(MICRO)
    config["recipes"]["other"] = {**config["recipes"]["micro-1-epoch"], "learning_rate": 0.04}
    config["training"] = [
        {"models": ["RepVGG-A0"], "recipe": "micro-1-epoch", "width": 0.125},
        {"models": ["RepVGG-B1g4"], "recipe": "other", "width": 0.125},
    ]
    assert dry_run(micro, config, "changed.yaml")["train"] == 1
    config = copy.deepcopy(MICRO)
    config["training"][0]["seeds"] = [0, 1]
    assert dry_run(micro, config, "seeds.yaml")["train"] == 2


CHEAP = {"collect", "cards", "tables", "figures", "claims", "provenance", "report", "all"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"speed": {"rounds": 21}}, {"measure_speed": 1}),
        ({"kernel_size": {"channels": 16}}, {"measure_kernel_sizes": 1}),
        ({"memory": {"batch_size": 2}}, {"measure_memory": 1}),
        ({"evaluation": {"batch_size": 50}}, {"evaluate_batch1": 1}),
        ({"reparameterization_inputs": 16}, {"reparameterize_batch1": 1, "evaluate_batch1": 1}),
        ({"execution": {"train": {"threads": 2}}}, {}),
    ],
    ids=lambda value: "-".join(value) if value else "nothing",
)
def test_a_changed_key_makes_again_what_rests_on_it_and_nothing_else(micro, change, expected):
    config = copy.deepcopy(MICRO)
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    jobs = dry_run(micro, config, "changed.yaml")
    assert {rule: count for rule, count in jobs.items() if rule not in CHEAP and rule != "total"} == expected
    assert jobs["provenance"] == 1


def test_the_file_of_the_resolved_experiment_is_no_trigger(copied):
    written = copied / "results/micro/experiment.json"
    assert json.loads(written.read_text())["recipes"]["micro-1-epoch"]["momentum"] == 0.9, "keys left out are written"
    os.utime(written)
    assert dry_run(copied, MICRO, "micro.yaml") == {}
    written.unlink()
    assert dry_run(copied, MICRO, "micro.yaml") == {} and not written.exists(), "a dry run writes nothing"


def test_an_edited_plot_draws_again_and_trains_nothing(copied, tmp_path):
    for name in ("Snakefile", "workflow", "profiles", "src", "paper", "config", "environment.yml"):
        source = ROOT / name
        target = copied / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    write_config(copied, MICRO)

    def run(*words: str, folder: Path = copied) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", *words, "--configfile", "micro.yaml"],
            capture_output=True, text=True, cwd=folder, check=True,
        )  # fmt: skip

    def jobs(folder: Path = copied) -> dict[str, int]:
        return planned(run("--dry-run", folder=folder))

    before = digests(copied)
    run("--touch")  # the results count as made by the workflow of this folder
    assert jobs() == {}
    (copied / "src/repvgg_companion/training/train.py").open("a").write("\n# an edit\n")
    (copied / "README.md").write_text("an edit\n")
    with (copied / "micro.yaml").open("a") as stream:
        stream.write("# a comment\n")
    rules = copied / "workflow/rules/training.smk"
    rules.write_text(rules.read_text().replace("repvgg_companion train ", "repvgg_companion  train "))
    for name in ("Snakefile", "workflow", "src", "paper", "config"):
        for path in (copied / name, *(copied / name).rglob("*")):
            os.utime(path)
    assert jobs() == {}, "an edit of the trainer, white space in its rule, or a checkout would run something again"
    archives = list((copied / "results/data").rglob("*.tar"))
    assert archives
    for path in archives:
        os.utime(path)
    moved = copied.rename(copied.with_name("moved"))
    assert "train" not in jobs(moved), "an archive with another time, or another place, would train again"
    moved.rename(copied)
    for name in ("figures.py", "figure_style.py", "companion.mplstyle"):
        (copied / "src/repvgg_companion/paper" / name).open("a").write("\n# an edit\n")
    again = jobs()
    assert {rule: again[rule] for rule in again if rule != "total"} == {"figures": 1, "report": 1, "all": 1}
    assert digests(copied) == before


def test_a_copied_folder_of_images_is_not_indexed_again_but_a_new_image_is(tmp_path):
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(tmp_path / "images" / split / name / f"{split}.png")
    config = {
        "experiment": "folders",
        "data": {"dataset": "folders", "train_folder": "images/train", "val_folder": "images/val"},
        "recipes": copy.deepcopy(MICRO["recipes"]),
        "training": MICRO["training"],
        "evaluation": MICRO["evaluation"],
    }
    done = snakemake(tmp_path, "--configfile", write_config(tmp_path, config), check=False)
    assert done.returncode != 0 and "a batch of 32 is larger than the training set of 2 images" in done.stderr
    assert not (tmp_path / "results").exists(), "it is told before any job"
    config["recipes"]["micro-1-epoch"] |= {"global_batch_size": 2, "batch_norm_batch_size": 2}
    words = ("results/data/folders/val.parquet", "--configfile", write_config(tmp_path, config))
    snakemake(tmp_path, *words)
    # The file names no number of classes: the networks are counted with that of the images.
    snakemake(tmp_path, "results/folders/parts/complexity-1.csv", *words[1:])
    counted = read_rows(tmp_path / "results/folders/parts/complexity-1.csv", "complexity")
    assert {(row["width"], row["num_classes"]) for row in counted} == {(0.125, 2)}
    for path in (tmp_path / "images", *(tmp_path / "images").rglob("*")):
        os.utime(path)
    assert planned(snakemake(tmp_path, "--dry-run", *words)) == {}
    Image.new("RGB", (16, 16)).save(tmp_path / "images/val/ant/new.png")
    assert planned(snakemake(tmp_path, "--dry-run", *words))["index"] == 1

    # Images that are indexed may go; a wrong path is refused before the index of other images is lost.
    index = {path: path.read_bytes() for path in (tmp_path / "results/data/folders").glob("*.*")}
    assert len(index) == 3
    assert "index" in planned(snakemake(tmp_path, "--dry-run", *words[1:]))
    (tmp_path / "images").rename(tmp_path / "gone")
    left = planned(snakemake(tmp_path, "--dry-run", *words[1:]))
    assert "train" in left and "index" not in left
    config["data"]["val_folder"] = "gone/vall"
    done = snakemake(tmp_path, "--configfile", write_config(tmp_path, config), check=False)
    assert done.returncode != 0 and "data.val_folder is gone/vall, which does not exist" in done.stdout + done.stderr
    assert {path: path.read_bytes() for path in index} == index


def test_the_default_profile_is_loaded_by_itself_wherever_the_run_is(tmp_path):
    """Without it Snakemake's own triggers hold, by which white space in a rule trains for weeks again."""
    for folder, words in ((ROOT, []), (tmp_path, ["--snakefile", str(ROOT / "Snakefile")])):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *words, "--directory", str(tmp_path), "--dry-run", "--cores", "1"],
            capture_output=True, text=True, cwd=folder, check=True,
        )  # fmt: skip
        assert re.search(r"workflow specific profile \S*profiles/default ", done.stderr), done.stderr[:300]


def test_a_file_that_a_killed_run_left_half_made_is_made_again(copied):
    config = write_config(copied, MICRO)
    table = "results/micro/parts/complexity-0.csv"
    snakemake(copied, "--configfile", config, "--touch", table)
    incomplete = copied / ".snakemake/incomplete"
    incomplete.mkdir(exist_ok=True)
    (incomplete / base64.b64encode(table.encode()).decode()).touch()
    assert dry_run(copied, MICRO, "micro.yaml").get("count_complexity") == 1


@pytest.mark.parametrize("loss", ["--forceall", "--delete-all-output", ".snakemake"])
def test_finished_weights_survive(copied, loss):
    config = write_config(copied, MICRO)
    before = digests(copied)
    only = [f"{path}" for path in before]
    if loss == ".snakemake":
        shutil.rmtree(copied / ".snakemake")
    elif loss == "--delete-all-output":
        snakemake(copied, "--configfile", config, "--delete-all-output")
        assert digests(copied) == {}
    extra = ["--forceall"] if loss == "--forceall" else []
    snakemake(copied, "--configfile", config, *extra, "--until", "train", *only)
    assert digests(copied) == before
    attempts = [path.read_text() for path in (copied / "results/state").rglob("attempts*")]
    assert attempts and all(text.count("\n") >= 1 for text in attempts)


def test_a_digest_that_is_not_the_configurations_is_refused(micro):
    done = snakemake(
        micro, "results/weights/demo-digits/RepVGG-A0/00000000/seed0/train.safetensors",
        "--configfile", write_config(micro, MICRO), check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "trains no RepVGG-A0 with digest 00000000" in done.stdout + done.stderr
