"""What a training is asked to do: the arguments of `train` in, a checked order out. Needs no torch."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.identity import WeightsIdentity, training_digest
from repvgg_companion.models.names import require_model
from repvgg_companion.training.recipe import PAPER_BATCH_NORM_BATCH_SIZE, Recipe

RANDOM = "random"
"""What stands for the digest of a backbone that starts from random weights."""


@dataclass(frozen=True)
class Order:
    """A checked order for one training."""

    recipe: Recipe
    identity: WeightsIdentity
    train_manifest: Manifest
    val_manifest: Manifest
    backbone: str = ""
    """The file that the backbone of a segmentation network starts from; empty for random weights."""

    @property
    def training(self) -> dict[str, object]:
        """What identifies the training beside its recipe."""
        identity = self.identity
        start = {"backbone_sha256": identity.backbone_sha256} if identity.backbone_sha256 else {}
        return {
            **start,
            "model": identity.model,
            "width": identity.width,
            "num_classes": identity.num_classes,
            "dataset": identity.dataset,
            "dataset_sha256": identity.dataset_sha256,
            "seed": identity.seed,
        }


def read_order(arguments: argparse.Namespace) -> Order:
    """Check the arguments against each other and the manifests; raises CompanionError with one sentence on a misfit."""
    recipe = Recipe.from_json(arguments.recipe)
    segments = require_model(arguments.model).family == "PSPNet"
    train_manifest = Manifest.read(arguments.train_manifest)
    val_manifest = Manifest.read(arguments.val_manifest)
    _require_fitting_images(arguments, recipe, segments, train_manifest, val_manifest)
    backbone = _backbone_sha256(arguments, recipe) if segments else ""
    digest = arguments.training_digest or training_digest(
        model=arguments.model,
        width=arguments.width,
        num_classes=arguments.num_classes,
        dataset=arguments.dataset,
        recipe=recipe.settings(),
        backbone=backbone or None,
    )
    notes = []
    if recipe.batch_norm_batch_size != PAPER_BATCH_NORM_BATCH_SIZE and not segments:
        notes.append(f"batch norm saw {recipe.batch_norm_batch_size} images, the paper's 32")
    if recipe.packed:
        notes.append(f"trained on the packed copy {recipe.packed}")
    identity = WeightsIdentity(
        dataset=arguments.dataset,
        dataset_sha256=dataset_sha256(train_manifest, val_manifest),
        model=arguments.model,
        width=arguments.width,
        num_classes=train_manifest.num_classes,
        recipe=arguments.recipe_name,
        training_digest=digest,
        seed=str(arguments.seed),
        input_px=recipe.input_px,
        note="; ".join(notes),
        backbone_sha256=backbone,
    )
    start = arguments.backbone if backbone not in ("", RANDOM) else ""
    return Order(recipe, identity, train_manifest, val_manifest, start)


def _require_fitting_images(
    arguments: argparse.Namespace, recipe: Recipe, segments: bool, train_manifest: Manifest, val_manifest: Manifest
) -> None:
    """Raise CompanionError where the manifests fit neither each other nor the recipe and the model."""
    classes = train_manifest.num_classes
    if arguments.num_classes is not None and arguments.num_classes != classes:
        raise CompanionError(
            f"{arguments.train_manifest} has {classes} classes, not {arguments.num_classes}; correct data.num_classes "
            "or index the right images"
        )
    if val_manifest.num_classes != classes:
        raise CompanionError(
            f"{arguments.val_manifest} has {val_manifest.num_classes} classes and {arguments.train_manifest} {classes}"
            "; index both splits again"
        )
    if not len(val_manifest):
        raise CompanionError(f"{arguments.val_manifest} holds no images; index the validation split again")
    if train_manifest.packed != recipe.packed:
        raise CompanionError(
            f"{arguments.train_manifest} is {_kind(train_manifest.packed)}, but the recipe {arguments.recipe_name} "
            f"asks for {_kind(recipe.packed)}; make the two agree"
        )
    for manifest, path in ((train_manifest, arguments.train_manifest), (val_manifest, arguments.val_manifest)):
        if segments != (manifest.maps is not None):
            has, does = ("label maps", "classifies") if manifest.maps is not None else ("no label maps", "segments")
            raise CompanionError(f"{path} has {has}, but {arguments.model} {does}; name a model that fits the images")


def _backbone_sha256(arguments: argparse.Namespace, recipe: Recipe) -> str:
    if recipe.mixup_alpha:
        raise CompanionError(f"{arguments.model} segments, which mixup is not defined for; set mixup_alpha to 0")
    if arguments.backbone in (None, RANDOM):
        return RANDOM
    if not Path(arguments.backbone).is_file():
        raise CompanionError(
            f"the backbone's weights {arguments.backbone} do not exist; train or convert that network first, or say "
            "random"
        )
    return sha256_of_file(arguments.backbone)


def _kind(packed: str) -> str:
    return f"the packed copy {packed}" if packed else "not a packed copy"
