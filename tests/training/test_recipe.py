"""The recipe refuses bad settings, survives JSON, and the published ones are as printed."""

import dataclasses
import itertools
import json
import math

import pytest
from published_recipes import CONFIG, PUBLISHED, RECIPE_120_EPOCHS, RECIPE_200_EPOCHS

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import training_digest
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "epochs is missing"),
        ({"epochs": 3, "epoch": 1}, "epoch is not a known key"),
        ({"epochs": 0}, "epochs is 0, outside 1"),
        ({"epochs": 2.5}, "epochs is 2.5 instead of a whole number"),
        ({"epochs": True}, "epochs is True instead of a whole number"),
        ({"epochs": 3, "learning_rate": "1e-4"}, "write 1.0e-4 with a dot"),
        ({"epochs": 3, "learning_rate": float("nan")}, "learning_rate is nan"),
        ({"epochs": 3, "learning_rate": 0}, "nothing would be learned"),
        ({"epochs": 3, "nesterov": 1}, "nesterov is 1 instead of true or false"),
        ({"epochs": 3, "augmentation": "flip"}, "choose one of crop-flip"),
        ({"epochs": 3, "global_batch_size": 100}, "not a multiple of batch_norm_batch_size 32"),
        ({"epochs": 3, "global_batch_size": 16}, "not a multiple of batch_norm_batch_size 32"),
        ({"epochs": 3, "warmup_epochs": 3}, "leaves nothing of the 3 epochs"),
        ({"epochs": 3, "momentum": 0, "nesterov": True}, "nesterov needs a momentum"),
    ],
)
def test_a_bad_setting_is_one_sentence(settings, words):
    with pytest.raises(CompanionError, match=words) as caught:
        Recipe.from_mapping(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"epochs": 3', "null"])
def test_text_that_is_no_recipe_is_refused(text):
    with pytest.raises(CompanionError, match=r"not valid JSON|cannot be read"):
        Recipe.read(text)


@pytest.mark.parametrize("recipe", PUBLISHED.values(), ids=PUBLISHED)
def test_json_round_trip_keeps_every_setting(recipe):
    assert Recipe.read(recipe.to_json()) == recipe
    assert list(json.loads(recipe.to_json())) == sorted(json.loads(recipe.to_json()))


def test_1_and_1_0_are_the_same_recipe():
    whole, broken = Recipe(epochs=3, learning_rate=1), Recipe(epochs=3, learning_rate=1.0)
    assert whole.to_json() == broken.to_json()


def test_every_single_setting_changes_the_digest():
    def digest(recipe):
        return training_digest(
            model="RepVGG-A0", width=1.0, num_classes=1000, dataset="imagenet", recipe=recipe.settings()
        )

    other = {
        "epochs": 121,
        "global_batch_size": 512,
        "batch_norm_batch_size": 64,
        "learning_rate": 0.2,
        "warmup_epochs": 1.0,
        "bias_learning_rate_factor": 1.0,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 2e-4,
        "label_smoothing": 0.2,
        "mixup_alpha": 0.3,
        "ema_decay": 0.9,
        "augmentation": "none",
        "input_px": 192,
        "decoder": "pillow",
        "packed": "short256-q90",
        "validation": "resize256-crop224-bilinear-pillow",
        "precision": "fp32",
        "memory_format": "contiguous",
        "threads": 2,
        "compile": True,
        "deterministic": True,
        "schedule": "poly",
        "poly_power": 0.8,
        "auxiliary_weight": 0.3,
        "head_learning_rate_factor": 10.0,
        "frozen_stages": 2,
        "validate_every": 5,
    }
    assert set(other) == {field.name for field in dataclasses.fields(Recipe)}
    digests = {digest(dataclasses.replace(RECIPE_120_EPOCHS, **{name: value})) for name, value in other.items()}
    assert len(digests | {digest(RECIPE_120_EPOCHS)}) == len(other) + 1


def test_the_digests_of_the_published_recipes_never_change():
    """If this fails, no user's trained weights are found any more: see _DEFAULTS_ADDED_LATER."""
    found = {
        name: training_digest(
            model="RepVGG-A0", width=1.0, num_classes=1000, dataset="imagenet", recipe=recipe.settings()
        )
        for name, recipe in PUBLISHED.items()
    }
    assert found == {"120-epochs": "7427ca45", "200-epochs": "902c60c3"}


def test_the_120_epoch_recipe_is_the_printed_one():
    recipe = RECIPE_120_EPOCHS
    assert (recipe.epochs, recipe.global_batch_size, recipe.learning_rate) == (120, 256, 0.1)
    assert recipe.global_batch_size // recipe.batch_norm_batch_size == 8  # GPUs
    assert (recipe.momentum, recipe.weight_decay, recipe.nesterov) == (0.9, 1e-4, False)
    assert (recipe.augmentation, recipe.input_px) == ("crop-flip", 224)
    assert (recipe.warmup_epochs, recipe.label_smoothing, recipe.mixup_alpha, recipe.ema_decay) == (0, 0, 0, 0)


def test_the_200_epoch_recipe_is_the_printed_one():
    recipe = RECIPE_200_EPOCHS
    assert (recipe.epochs, recipe.warmup_epochs, recipe.augmentation) == (200, 5, "crop-flip-autoaugment")
    assert recipe.label_smoothing > 0 and recipe.mixup_alpha > 0


def test_what_the_paper_does_not_print_is_marked():
    lines = CONFIG.read_text(encoding="utf-8").splitlines()
    marked = {line.split(":")[0].strip() for line in lines if line.endswith("# not printed")}
    assert marked == {"label_smoothing", "mixup_alpha"}
    text = " ".join(line.strip(" #") for line in lines)
    for choice in ("biases at twice the rate", "no warm-up", "last or the best epoch", "printed for 120 epochs only"):
        assert choice in text


def test_the_cosine_is_torchs_per_iteration():
    import torch

    recipe, steps_per_epoch = Recipe(epochs=3, learning_rate=0.1), 7
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=21)
    for step in range(21):
        assert learning_rate(recipe, step, steps_per_epoch) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
    assert learning_rate(recipe, 20, steps_per_epoch) > 0


def test_warm_up_rises_linearly_inside_the_epochs():
    recipe = Recipe(epochs=10, warmup_epochs=2, learning_rate=0.4)
    rates = [learning_rate(recipe, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == 0.4 and all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[30] == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * 20 / 40)))
