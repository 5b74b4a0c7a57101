"""Small tensors are quicker on one thread, above all when other tests run beside these."""

import sys
from pathlib import Path

import pytest
import torch

# The oracle network of timm, which several folders of tests share.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
