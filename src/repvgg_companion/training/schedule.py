"""The learning rate of each optimizer step. Needs no torch."""

import math

from repvgg_companion.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step`, counted from 0 over the whole training.

    Half a cosine from `learning_rate` towards 0 (section 4.1 "cosine annealing"), per step as in the authors' first
    script: the first step has the full rate, the last one is a step short of 0. With a warm-up (section 4.1: 5 of the
    200 epochs) the rate first rises linearly up to the full rate at the last warm-up step, and the cosine spans the
    rest.

    The schedule `poly` (section 4.3: base 0.01, power 0.9) multiplies the rate by (1 - share of these steps that are
    done) to the power `poly_power` instead.
    """
    warmup_steps = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return recipe.learning_rate * (step + 1) / warmup_steps
    remaining = recipe.epochs * steps_per_epoch - warmup_steps
    if recipe.schedule == "poly":
        return recipe.learning_rate * (1 - (step - warmup_steps) / remaining) ** recipe.poly_power
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / remaining))
