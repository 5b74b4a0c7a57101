"""The environment of a training process that a test starts."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def clean_environment() -> dict[str, str]:
    """This process's environment with the package on the path, without what a scheduler or torchrun would set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "TORCHELASTIC_")) and name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    return kept | {"PYTHONPATH": str(ROOT / "src")}
