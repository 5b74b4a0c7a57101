"""What all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "2")


LONGEST_FIRST = ("slurm", "workflow", "training", "experiment")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders of long tests first, so that no process is left alone with one at the end."""
    rank = {ROOT / "tests" / folder: number for number, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent, len(rank)))


@pytest.fixture
def root() -> Path:
    """The repository's folder."""
    return ROOT
