"""Running the real workflow in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from repvgg_companion.files import locked_file

ROOT = Path(__file__).resolve().parents[2]

MICRO = {
    "experiment": "micro",
    "data": {"dataset": "demo-digits", "num_classes": 10, "generate": "digits"},
    "recipes": {
        "micro-1-epoch": {
            "epochs": 1,
            "global_batch_size": 32,
            "batch_norm_batch_size": 32,
            "learning_rate": 0.05,
            "augmentation": "shift",
            "input_px": 32,
            "validation": "resize32-crop32-bilinear-pillow",
            "decoder": "pillow",
            "precision": "fp32",
            "memory_format": "channels_last",
            "threads": 1,
        }
    },
    "training": [
        {"models": ["RepVGG-A0", "RepVGG-B1g4"], "recipe": "micro-1-epoch", "width": 0.125},
    ],
    "evaluation": {"protocol": "resize32-crop32-bilinear-pillow"},
    "speed": {"models": ["RepVGG-A0"], "baselines": ["ResNet-18"], "anchor": "ResNet-18", "input_px": 64},
    "kernel_size": {"batch_size": 1, "channels": 32, "resolution_px": 14},
    "memory": {"models": ["RepVGG-A0", "ResNet-18"], "input_px": 64},
    "execution": {"models_per_job": 2},
}


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run the repository's workflow with `folder` as its working directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
         "--cores", "2", *arguments],
        capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=1700,
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"snakemake failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


def write_config(folder: Path, config: dict, name: str = "micro.yaml") -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


@pytest.fixture(scope="session")
def micro(tmp_path_factory, worker_id) -> Path:
    """A folder in which a small experiment went through the whole chain: once, then copied for each test process."""
    alone = worker_id == "master"
    built = tmp_path_factory.mktemp("micro") if alone else tmp_path_factory.getbasetemp().parent / "micro"
    finished = built.with_name("micro-is-finished")
    with locked_file(f"{built}.lock", wait_s=3600):
        if not finished.exists():
            built.mkdir(exist_ok=True)
            snakemake(built, "--configfile", write_config(built, MICRO))
            finished.touch()
    if alone:
        return built
    return Path(shutil.copytree(built, tmp_path_factory.mktemp("copies") / "micro", symlinks=True))


@pytest.fixture
def copied(micro, tmp_path) -> Path:
    """A copy of the finished small experiment, modification times kept."""
    return Path(shutil.copytree(micro, tmp_path / "copy", symlinks=True))
