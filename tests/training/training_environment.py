"""The environment of a training process that a test starts, and weights that it starts from."""

import os
from pathlib import Path

import torch

from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.weights_file import save_weights

ROOT = Path(__file__).resolve().parents[2]


def clean_environment() -> dict[str, str]:
    """This process's environment with the package on the path, without what a scheduler or torchrun would set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "TORCHELASTIC_")) and name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    return kept | {"PYTHONPATH": str(ROOT / "src")}


def start_file(path: Path, model: str = "RepVGG-A0", *, width: float = 0.0625, form: str = "train") -> Path:
    """Write a weights file of seven classes with random weights, always the same ones."""
    torch.manual_seed(3)
    network = build_model(model, num_classes=7, width=width, form=form)
    identity = WeightsIdentity("imagenet", "", model, width, 7, "120-epochs", "1234abcd", "0", 224, form)
    save_weights(path, network.state_dict(), identity)
    return path
