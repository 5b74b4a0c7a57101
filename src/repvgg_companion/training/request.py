"""The request of one training: the arguments of `train`, checked against each other. Needs no torch."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.data.protocols import Protocol, SlidingProtocol, parse_protocol
from repvgg_companion.data.whole_batch import require_whole_batch
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.identity import WeightsIdentity, training_digest
from repvgg_companion.models.names import require_model
from repvgg_companion.training.job.stop import TimeLimits
from repvgg_companion.training.recipe import PAPER_BATCH_NORM_BATCH_SIZE, Recipe

RANDOM = "random"
"""Takes the place of a digest for a backbone that starts from random weights."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """How often a checkpoint is written, and how many are kept; does not affect the weights."""

    seconds: float
    steps: int
    keep: int


@dataclass(frozen=True)
class Placement:
    """Where a training runs, in how many processes; does not affect the weights on a CPU.

    `device` is auto, cpu or cuda, `gpus` the number asked for (None: not stated), `processes` the number on a CPU,
    `workers` the loader processes of each (None: chosen by the number of images and cores).
    """

    device: str
    gpus: int | None
    processes: int
    workers: int | None

    @property
    def on_gpus(self) -> bool:
        """Whether a number of GPUs was asked for."""
        return self.device != "cpu" and bool(self.gpus)

    @property
    def process_count(self) -> int:
        """Processes to start on this machine: one for each GPU, else `processes`."""
        return self.gpus if self.on_gpus and self.gpus else self.processes

    @property
    def device_name(self) -> str:
        """The device with `auto` resolved by the number of GPUs, if stated."""
        if self.device != "auto" or self.gpus is None:
            return self.device
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class TrainRequest:
    """A checked request for one training.

    `protocol` is that of the validation. `backbone` is the file that the network, or the backbone of a segmentation
    network, starts from, empty for random weights. `experiment` is only recorded in the attempt log. `undecodable` is
    the policy for images that cannot be decoded.
    """

    recipe: Recipe
    identity: WeightsIdentity
    train_manifest: Manifest
    val_manifest: Manifest
    protocol: Protocol
    backbone: str
    experiment: str
    state: Path
    weights: Path
    history: Path
    undecodable: str
    placement: Placement
    checkpoints: CheckpointPolicy
    time_limits: TimeLimits

    @property
    def seed(self) -> int:
        """The seed of weights, order, augmentation and dropout."""
        return int(self.identity.seed)

    @property
    def training(self) -> dict[str, object]:
        """What identifies the training, without its recipe; stored in state.json."""
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


def read_request(arguments: argparse.Namespace) -> TrainRequest:
    """The request of the verb's arguments; raises CompanionError in one sentence if they do not fit each other."""
    recipe = Recipe.read(arguments.recipe)
    segments = require_model(arguments.model).family == "PSPNet"
    train_manifest = Manifest.read(arguments.train_manifest)
    val_manifest = Manifest.read(arguments.val_manifest)
    _require_fitting_images(arguments, recipe, train_manifest, val_manifest)
    backbone_sha256 = _backbone_sha256(arguments, recipe, segments)
    digest = arguments.training_digest or training_digest(
        model=arguments.model,
        width=arguments.width,
        num_classes=arguments.num_classes,
        dataset=arguments.dataset,
        recipe=recipe.settings(),
        backbone=backbone_sha256 or None,
    )
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
        note=_note(recipe, segments),
        backbone_sha256=backbone_sha256,
    )
    return TrainRequest(
        recipe=recipe,
        identity=identity,
        train_manifest=train_manifest,
        val_manifest=val_manifest,
        protocol=_fitting_protocol(arguments, recipe),
        backbone=arguments.backbone if backbone_sha256 not in ("", RANDOM) else "",
        experiment=arguments.experiment,
        state=Path(arguments.state),
        weights=Path(arguments.output),
        history=Path(arguments.history),
        undecodable=arguments.undecodable,
        placement=Placement(arguments.device, arguments.gpus, arguments.processes, arguments.workers),
        checkpoints=CheckpointPolicy(
            60 * arguments.checkpoint_minutes, arguments.checkpoint_steps, arguments.keep_checkpoints
        ),
        time_limits=TimeLimits(arguments.deadline, arguments.deadline_margin, arguments.time_limit),
    )


def _note(recipe: Recipe, segments: bool) -> str:
    notes = []
    if recipe.batch_norm_batch_size != PAPER_BATCH_NORM_BATCH_SIZE and not segments:
        notes.append(f"batch norm saw {recipe.batch_norm_batch_size} images, the paper's 32")
    if recipe.packed:
        notes.append(f"trained on the packed copy {recipe.packed}")
    return "; ".join(notes)


def _require_fitting_images(
    arguments: argparse.Namespace, recipe: Recipe, train_manifest: Manifest, val_manifest: Manifest
) -> None:
    """Raise CompanionError if the manifests do not fit each other, the recipe or the model."""
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
    require_whole_batch(recipe.global_batch_size, len(train_manifest), arguments.recipe_name)
    segments = require_model(arguments.model).family == "PSPNet"
    for manifest, path in ((train_manifest, arguments.train_manifest), (val_manifest, arguments.val_manifest)):
        if segments != (manifest.maps is not None):
            has, does = ("label maps", "classifies") if manifest.maps is not None else ("no label maps", "segments")
            raise CompanionError(f"{path} has {has}, but {arguments.model} {does}; name a model that fits the images")


def _fitting_protocol(arguments: argparse.Namespace, recipe: Recipe) -> Protocol:
    protocol, segments = parse_protocol(recipe.validation), require_model(arguments.model).family == "PSPNet"
    if segments != isinstance(protocol, SlidingProtocol):
        raise CompanionError(
            f"the recipe {arguments.recipe_name} validates at {recipe.validation}, but {arguments.model} needs a "
            f"protocol that {'slides, such as slide713-pillow' if segments else 'crops'}"
        )
    return protocol


def _backbone_sha256(arguments: argparse.Namespace, recipe: Recipe, segments: bool) -> str:
    """The digest of the file to start from; without one `random` for a PSPNet, else empty."""
    if segments and recipe.mixup_alpha:
        raise CompanionError(f"{arguments.model} segments, and mixup is not defined for that; set mixup_alpha to 0")
    if arguments.backbone in (None, RANDOM):
        if recipe.frozen_stages:
            raise CompanionError(
                f"the recipe {arguments.recipe_name} freezes stages of {arguments.model} at random weights; name the "
                "file to start from (training.backbones, or --backbone), or set frozen_stages to 0"
            )
        return RANDOM if segments else ""
    if not Path(arguments.backbone).is_file():
        raise CompanionError(
            f"the weights {arguments.backbone} do not exist; train or convert that network first, or "
            "give --backbone random"
        )
    return sha256_of_file(arguments.backbone)


def _kind(packed: str) -> str:
    return f"the packed copy {packed}" if packed else "not a packed copy"
