"""Work carried to a machine without Snakemake and back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from repvgg_companion.__main__ import main
from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.adopt import plan_adoption
from repvgg_companion.experiment.jobs import parse_dry_run, planned_jobs, script

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "experiment": "carried",
    "data": {"dataset": "demo-digits", "num_classes": 10, "generate": "digits"},
    "recipes": {
        "one-epoch": {
            "epochs": 1, "global_batch_size": 32, "learning_rate": 0.02, "augmentation": "none", "input_px": 32,
            "validation": "resize32-crop32-bilinear-pillow", "decoder": "pillow", "precision": "fp32",
            "memory_format": "channels_last", "threads": 1,
        }
    },
    "training": [{"models": ["RepVGG-A0"], "recipe": "one-epoch", "width": 0.0625, "seeds": [0, 1]}],
    "evaluation": {"protocol": "resize32-crop32-bilinear-pillow"},
    "execution": {"models_per_job": 2},
}  # fmt: skip
DRY_RUN = """Building DAG of jobs...
[Sun Nov 22 22:39:19 2026]
rule index:
    input: a.tar
    output: results/train.parquet, results/val.parquet
Shell command: python -m repvgg_companion index --dataset 'my set' --output results

[Sun Nov 22 22:39:20 2026]
localrule all:
    input: results/train.parquet
[Sun Nov 22 22:39:20 2026]
rule train:
    output: w.safetensors
    reason: Missing output files: w.safetensors
Shell command: python -m repvgg_companion train --recipe '{"epochs":1}' --output w.safetensors

Job stats:
"""


def test_a_dry_run_is_read_with_outputs_and_quoted_words():
    jobs = parse_dry_run(DRY_RUN)
    assert [(job.rule, job.verb, job.outputs) for job in jobs] == [
        ("index", "index", ("results/train.parquet", "results/val.parquet")),
        ("train", "train", ("w.safetensors",)),
    ]
    assert jobs[0].command[5] == "my set" and jobs[1].command[5] == '{"epochs":1}'


def test_the_script_skips_what_is_done_and_stops_where_a_training_was_stopped(tmp_path):
    """Run by bash with a stand-in for Python that makes outputs, fails, or is interrupted."""
    fake = tmp_path / "fake"
    answers = 'case "$4" in index) touch results_a results_b;; x) exit 3;; train) exit 75;; esac'
    fake.write_text(f'#!/bin/bash\necho "$4" >> calls\n{answers}\n')
    fake.chmod(0o755)
    text = script(
        parse_dry_run(
            "[Sun Nov 22 1 2026]\nrule i:\n    output: results_a, results_b\nShell command: python -m p index\n"
            "[Sun Nov 22 1 2026]\nrule x:\n    output: never\nShell command: python -m p x\n"
            "[Sun Nov 22 1 2026]\nrule t:\n    output: w\nShell command: python -m p train\n"
            "[Sun Nov 22 1 2026]\nrule l:\n    output: l\nShell command: python -m p later\n"
        ),
        "config/x.yaml",
    )
    (tmp_path / "jobs.sh").write_text(text.replace('"$PYTHON" "$@"', '"$PYTHON" _ "$@"'))
    for round_ in (1, 2):
        done = subprocess.run(
            ["bash", str(tmp_path / "jobs.sh")], env=os.environ | {"PYTHON": str(fake)}, capture_output=True, text=True
        )
        assert done.returncode == 75, done.stderr
        assert ("done already: results_a results_b" in done.stdout) == (round_ == 2)
        assert "failed with status 3" in done.stderr and "start the script again" in done.stdout
    assert (tmp_path / "calls").read_text().split() == ["index", "x", "train", "x", "train"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_work_goes_to_a_machine_without_snakemake_and_back(tmp_path, monkeypatch, capsys):
    """The whole way; on the way back a flipped byte and foreign images are refused before anything is copied."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for folder in (here, there):
        (folder / "src").symlink_to(ROOT / "src")
    (here / "carried.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    monkeypatch.chdir(here)
    target = here / "results/data/demo-digits/dataset.json"
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", "carried.yaml",
         "--cores", "1", str(target.relative_to(here))],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert main(["jobs", "carried.yaml"]) == 0
    assert "2 of them trainings" in capsys.readouterr().out
    shutil.copy(here / "jobs-carried.sh", there)
    done = subprocess.run(
        ["bash", str(there / "jobs-carried.sh")],
        env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    weights = next((there / "results/weights").rglob("deploy.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    good = weights.read_bytes()
    weights.write_bytes(data)
    with pytest.raises(CompanionError, match="speaks of weights of RepVGG-A0 with SHA-256"):
        plan_adoption(there / "results", here / "results")
    weights.write_bytes(good)
    description = target.read_text()
    target.write_text(description.replace('"dataset_sha256": "', '"dataset_sha256": "0'))
    with pytest.raises(CompanionError, match="trained on other images"):
        plan_adoption(there / "results", here / "results")
    target.write_text(description)
    assert not (here / "results/weights").exists()

    assert main(["adopt", str(there)]) == 0
    left = {job.verb for job in planned_jobs("carried.yaml")}
    assert not left & {"train", "reparameterize", "evaluate", "index", "make-demo-data"}, left
    assert main(["adopt", str(there)]) == 0
    assert "adopted 0 files" in capsys.readouterr().out.splitlines()[-1]
    assert main(["jobs", "carried.yaml"]) == 0
    assert "0 of them trainings" in capsys.readouterr().out
