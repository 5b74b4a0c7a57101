"""A real Slurm of two nodes with fake GPUs on this machine, started for these tests and stopped after them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path(__file__).with_name("slurm-localhost")
MARGIN_SECONDS = 20
CHECKPOINT_STEPS = 8
# The plugin looks less often the longer nothing ends; the Slurm of these tests answers at once.
SNAKEMAKE = """
import snakemake_executor_plugin_slurm as plugin
from snakemake.cli import main

plugin.Executor.next_seconds_between_status_checks = property(lambda executor: 2, lambda executor, seconds: None)
main()
"""


@dataclass
class Slurm:
    """Commands against the local Slurm."""

    environment: dict[str, str] = field(repr=False)

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout

    def tool(self, *arguments: str) -> str:
        return self.call(str(TOOL), *arguments)

    def jobs(self) -> list[dict[str, str]]:
        """Every job that Slurm remembers, finished ones included, by scontrol's names."""
        text = self.call("scontrol", "-o", "show", "jobs")
        rows = [line.split() for line in text.splitlines() if line.startswith("JobId=")]
        return [dict(word.split("=", 1) for word in row if "=" in word) for row in rows]


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Starts a Slurm of its own, with two nodes of two fake GPUs; skips if it can neither be found nor installed."""
    if os.geteuid() != 0 and not shutil.which("slurmctld"):
        pytest.skip("needs root to install Slurm")
    # Not below pytest's own folder: munge wants its socket in folders that everybody may enter.
    folder = Path(tempfile.mkdtemp(prefix="slurm-localhost-"))
    folder.chmod(0o755)
    settings = {"SLURM_LOCALHOST_DIR": str(folder / "s"), "SLURM_LOCALHOST_NODES": "2", "SLURM_LOCALHOST_GPUS": "2"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = kept | settings | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    started = subprocess.run([str(TOOL), "start"], env=environment, capture_output=True, text=True, timeout=300)
    assert started.returncode == 0, started.stderr
    try:
        environment |= {
            "SLURM_CONF": str(folder / "s" / "slurm.conf"),
            "PATH": f"{folder / 's' / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            # The GPUs are counted and granted by Slurm, but there is no CUDA behind them.
            "REPVGG_COMPANION_DEVICE": "cpu",
            "REPVGG_COMPANION_DEADLINE_MARGIN": str(MARGIN_SECONDS),
            "REPVGG_COMPANION_CHECKPOINT_STEPS": str(CHECKPOINT_STEPS),
        }
        yield Slurm(environment)
    finally:
        subprocess.run([str(TOOL), "wipe"], env=environment, capture_output=True, timeout=120, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def experiment(name: str, *, models: list[str], epochs: int, runtime: str) -> dict:
    """A small experiment whose trainings ask Slurm for one GPU each."""
    recipe = {
        "epochs": epochs,
        "global_batch_size": 32,
        "learning_rate": 0.02,
        "augmentation": "shift",
        "input_px": 32,
        "validation": "resize32-crop32-bilinear-pillow",
        "decoder": "pillow",
        "precision": "fp32",
        "memory_format": "channels_last",
        "threads": 1,
    }
    small = {"threads": 1, "mem_mb": 2000, "runtime": "10m"}
    return {
        "experiment": name,
        "data": {"dataset": "demo-digits", "num_classes": 10, "generate": "digits"},
        "recipes": {"slurm": recipe},
        "training": [{"models": models, "recipe": "slurm", "width": 0.125}],
        "evaluation": {"protocol": "resize32-crop32-bilinear-pillow"},
        "execution": {
            "models_per_job": 2,
            "train": {"threads": 1, "gpu": 1, "mem_mb": 3000, "runtime": runtime},
            "reparameterize": small,
            "evaluate": small,
        },
    }


def start_snakemake(slurm: Slurm, folder: Path, config: dict, *targets: str) -> subprocess.Popen:
    """Start the workflow through the Slurm profile, with `folder` as its working directory."""
    path = folder / f"{config['experiment']}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [
        *(sys.executable, "-c", SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)),
        *("--workflow-profile", str(ROOT / "workflow/profiles/slurm"), "--configfile", str(path)),
        # The tests' Slurm answers at once, a cluster's file system does not.
        *("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10", *targets),
    ]
    output = (folder / "snakemake.log").open("w")
    return subprocess.Popen(command, env=slurm.environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, folder: Path, seconds: float = 1200) -> str:
    """Wait for Snakemake; returns what it said, after checking that it succeeded."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = "timeout"
    said = (folder / "snakemake.log").read_text()
    assert status == 0, said[-8000:]
    return said


@pytest.fixture(scope="session")
def chain(slurm, tmp_path_factory) -> Path:
    """A folder in which Slurm ran the chain from the archives to the accuracy of two models."""
    folder = tmp_path_factory.mktemp("chain")
    config = experiment("chain", models=["RepVGG-A0", "RepVGG-B1g4"], epochs=1, runtime="10m")
    config["execution"]["train_by_model"] = {"RepVGG-B1g4": {**config["execution"]["train"], "gpu": 2}}
    config["memory"] = {"models": ["RepVGG-A0"], "width": 0.25, "input_px": 32}
    finish(start_snakemake(slurm, folder, config, "results/chain/accuracy.csv"), folder)
    return folder


@pytest.fixture
def folder(chain, tmp_path) -> Path:
    """A working directory with the demo data indexed and nothing trained."""
    shutil.copytree(chain / "results/data", tmp_path / "work/results/data", symlinks=True)
    return tmp_path / "work"
