"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "2")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell; what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST_FIRST = ("slurm", "workflow", "training", "experiment")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders of long tests first, so that no process is left alone with one at the end."""
    rank = {ROOT / "tests" / folder: number for number, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent, len(rank)))


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest):
    """Small tensors are quicker on one thread, above all when other tests run beside these."""
    if request.path.parent.name not in ("complexity", "docs", "models", "reparameterization", "weights"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def root() -> Path:
    """The repository's folder."""
    return ROOT
