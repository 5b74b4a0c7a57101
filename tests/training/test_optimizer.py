"""Which parameters decay, and that the step is torch's own SGD."""

import pytest
import torch
from published_recipes import RECIPE_120_EPOCHS
from torch import nn

from repvgg_companion.models.build import build_model
from repvgg_companion.training.optimizer import Sgd, parameter_groups
from repvgg_companion.training.recipe import Recipe


def settings_of(network, recipe):
    return {
        name: (group.weight_decay, group.rate_factor)
        for group in parameter_groups(network, recipe)
        for name in group.names
    }


def test_every_parameter_of_a0_has_the_decay_and_rate_of_the_official_script():
    """All parameters of A0, one by one: stage0, then 2 + 4 + 14 + 1 blocks, then the linear layer."""
    expected = {"linear.weight": (1e-4, 1.0), "linear.bias": (0.0, 2.0)}
    blocks = ["stage0", *(f"stage{s}.{i}" for s, n in ((1, 2), (2, 4), (3, 14), (4, 1)) for i in range(n))]
    for block in blocks:
        for branch in ("rbr_dense", "rbr_1x1"):
            expected[f"{block}.{branch}.conv.weight"] = (1e-4, 1.0)
            expected[f"{block}.{branch}.bn.weight"] = (0.0, 1.0)
            expected[f"{block}.{branch}.bn.bias"] = (0.0, 2.0)
        if block != "stage0" and not block.endswith(".0"):
            expected[f"{block}.rbr_identity.weight"] = (1e-4, 1.0)
            expected[f"{block}.rbr_identity.bias"] = (0.0, 2.0)
    with torch.device("meta"):
        network = build_model("RepVGG-A0")
    assert settings_of(network, RECIPE_120_EPOCHS) == expected


@pytest.mark.parametrize("model", ["RepVGG-A0", "RepVGG-B1g4", "RepVGG-D2se"])
def test_the_groups_equal_the_official_rule_by_name(model):
    """The official script: no decay for names with `bias` or `bn`, twice the rate for names with `bias`."""
    with torch.device("meta"):
        network = build_model(model)
    expected = {
        name: (0.0 if "bias" in name or "bn" in name else 1e-4, 2.0 if "bias" in name else 1.0)
        for name, _ in network.named_parameters()
    }
    assert settings_of(network, RECIPE_120_EPOCHS) == expected


@pytest.mark.parametrize("model", ["ResNet-18", "ResNet-50", "RepVGG-B0_diracnet", "RepVGG-B0_post-addition-bn"])
def test_elsewhere_only_kernels_decay(model):
    with torch.device("meta"):
        network = build_model(model)
    found = settings_of(network, RECIPE_120_EPOCHS)
    parameters = dict(network.named_parameters())
    assert set(found) == set(parameters)
    for name, (decay, _) in found.items():
        kept = parameters[name].ndim > 1 or name.endswith("rbr_identity.weight")
        assert decay == (1e-4 if kept else 0.0), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_step_is_that_of_torchs_sgd(layout, nesterov):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    network = network.to(memory_format=layout)
    import copy

    other = copy.deepcopy(network)
    recipe = Recipe(epochs=1, nesterov=nesterov, weight_decay=1e-2, bias_learning_rate_factor=2.0)
    ours = Sgd(parameter_groups(network, recipe), recipe)
    named = dict(other.named_parameters())
    theirs = torch.optim.SGD(
        [
            {
                "params": [named[name] for name in group.names],
                "weight_decay": group.weight_decay,
                "lr": 0.1 * group.rate_factor,
            }
            for group in ours.groups
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=nesterov,
        foreach=False,
    )
    for step in range(4):
        images = torch.randn(8, 3, 8, 8).contiguous(memory_format=layout)
        labels = torch.arange(8) % 4
        for model in (network, other):
            model.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
        ours.step(0.1)
        theirs.step()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter, named[name], rtol=1e-5, atol=1e-6, msg=f"{name} at step {step}")
