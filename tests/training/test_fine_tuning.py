"""Fine-tuning: a training that starts from trained weights, with other classes, frozen stages and a faster head."""

from dataclasses import replace

import pytest
import torch
from training_environment import start_file

from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.experiment_file import TrainingGroup
from repvgg_companion.files import sha256_of_file
from repvgg_companion.models.build import build_model
from repvgg_companion.models.start import freeze, start_from
from repvgg_companion.training.optimizer import parameter_groups
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.weights_file import load_weights

WIDTH = 0.0625


def test_frozen_stages_stay_bit_for_bit_and_the_rest_learns(trainings, tmp_path):
    path = start_file(tmp_path / "start.safetensors")
    start, _ = load_weights(path)
    recipe = {"epochs": 2, "warmup_epochs": 0, "frozen_stages": 3, "head_learning_rate_factor": 10.0}
    assert trainings.train_here("tuned", "--backbone", path, recipe=recipe) == 0
    tuned, identity = load_weights(trainings.weights("tuned"))
    assert identity.backbone_sha256 == sha256_of_file(path)
    assert tuned["linear.weight"].shape[0] == 10 != start["linear.weight"].shape[0]
    frozen = [key for key in start if key.startswith(("stage0.", "stage1.", "stage2."))]
    assert frozen and all(torch.equal(tuned[key], start[key]) for key in frozen), "statistics of batch norms too"
    assert not torch.equal(tuned["stage4.0.rbr_dense.conv.weight"], start["stage4.0.rbr_dense.conv.weight"])
    assert not torch.equal(tuned["stage4.0.rbr_dense.bn.running_mean"], start["stage4.0.rbr_dense.bn.running_mean"])


def test_a_head_of_as_many_classes_is_kept(tmp_path):
    path = start_file(tmp_path / "start.safetensors")
    network = build_model("RepVGG-A0", num_classes=7, width=WIDTH)
    state, identity = load_weights(path)
    start_from(network, "RepVGG-A0", state, identity, path)
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


def test_the_head_has_its_own_rate_and_defaults_change_no_digest():
    network = build_model("RepVGG-A0", num_classes=7, width=WIDTH)
    recipe = Recipe(epochs=1, bias_learning_rate_factor=2.0)
    assert "frozen_stages" not in recipe.settings() and "head_learning_rate_factor" not in recipe.settings()
    tuned = replace(recipe, head_learning_rate_factor=5.0)
    rates = {name: group.rate_factor for group in parameter_groups(network, tuned) for name in group.names}
    assert (rates["linear.weight"], rates["linear.bias"]) == (5.0, 10.0)
    assert (rates["stage0.rbr_dense.conv.weight"], rates["stage0.rbr_dense.bn.bias"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "RepVGG-A1"}, "holds the train form of RepVGG-A1, but this training is of RepVGG-A0"),
        ({"form": "deploy"}, "holds the deploy form of RepVGG-A0"),
        ({"width": 0.25}, "does not fit RepVGG-A0 .* its width is 0.25, use one width for both"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, change, message):
    path = start_file(tmp_path / "start.safetensors", **change)
    network = build_model("RepVGG-A0", num_classes=7, width=WIDTH)
    with pytest.raises(CompanionError, match=message):
        start_from(network, "RepVGG-A0", *load_weights(path), path)


def test_what_cannot_be_frozen_is_refused(trainings, capsys):
    with pytest.raises(CompanionError, match="ResNet has no stage 1 to freeze"):
        freeze(build_model("ResNet-18", num_classes=3, width=WIDTH), 1)
    assert trainings.train_here("random", recipe={"frozen_stages": 1}) == 2
    assert "freezes stages of RepVGG-A0 at random weights" in capsys.readouterr().err
    assert trainings.train_here("nothing", "--backbone", trainings.folder / "none.safetensors") == 2
    assert "none.safetensors do not exist" in capsys.readouterr().err


def test_the_experiment_file_names_the_start():
    group = {"models": ["RepVGG-A0", "ResNet-18"], "recipe": "short"}
    assert TrainingGroup(**group, backbones={"RepVGG-A0": "a.safetensors"}).backbones
    with pytest.raises(ValueError, match="no model of the group starts from"):
        TrainingGroup(**group, backbones={"RepVGG-A1": "a.safetensors"})
    with pytest.raises(ValueError, match="starts from random weights, as it does anyway"):
        TrainingGroup(**group, backbones={"RepVGG-A0": "random"})
