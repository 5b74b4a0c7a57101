"""How a training sets up convolutions on a GPU; the settings are torch's, and need no GPU to be read."""

from types import SimpleNamespace

import pytest
import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.torch_device import set_training_convolutions
from repvgg_companion.training.attempt import attempt
from repvgg_companion.training.recipe import Recipe


@pytest.fixture
def flags():
    """What torch's settings are; they are as before at the end of the test."""
    cudnn, before = torch.backends.cudnn, (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    yield lambda: (cudnn.benchmark, cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled())
    cudnn.benchmark, cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("deterministic", [True, False])
def test_fp32_is_no_tf32_and_only_what_may_differ_in_bits_searches(flags, monkeypatch, deterministic):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = True
    set_training_convolutions(torch.device("cuda"), deterministic=deterministic)
    assert flags() == (not deterministic, False, deterministic)


def test_a_cpu_keeps_torchs_settings(flags):
    before = flags()
    set_training_convolutions(torch.device("cpu"), deterministic=False)
    assert flags() == before


def test_a_deterministic_segmentation_on_a_gpu_is_refused_before_it_begins(flags):
    recipe = Recipe(epochs=1, deterministic=True)
    request = SimpleNamespace(recipe=recipe, identity=SimpleNamespace(model="PSPNet-ResNet-50"))
    group = SimpleNamespace(device=torch.device("cuda"), leads=True)
    with pytest.raises(CompanionError, match="PSPNet-ResNet-50 cannot be trained with deterministic: true on a GPU"):
        attempt(request, None, None, group)
    assert not flags()[2]
