"""The two published recipes, as config/imagenet.yaml gives them."""

from pathlib import Path

import yaml

from repvgg_companion.training.recipe import Recipe

CONFIG = Path(__file__).resolve().parents[2] / "config" / "imagenet.yaml"
_RECIPES = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["recipes"]
PUBLISHED = {name: Recipe.from_mapping(_RECIPES[name]) for name in ("120-epochs", "200-epochs")}
RECIPE_120_EPOCHS, RECIPE_200_EPOCHS = PUBLISHED.values()
