"""From an experiment to names and paths: which weights there are, where each file lives, which options each job gets.

Pure functions of the checked experiment, except `names_below`; the workflow's rules and `plan` read the same ones.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.data.protocols import parse_protocol
from repvgg_companion.experiment.experiment_file import Experiment, Released, Resources, TrainingGroup
from repvgg_companion.files import canonical_json, json_text, sha256_of_file, short_digest, write_text
from repvgg_companion.identity import predictions_name, training_digest
from repvgg_companion.models.names import MODELS, require_model
from repvgg_companion.speed.speed_settings import SpeedSettings


@dataclass(frozen=True)
class Weights:
    """One set of weights of an experiment and its place."""

    dataset: str
    model: str
    width: float
    recipe: str
    digest: str
    seed: str
    protocol: str
    source: str = ""
    """The released file that these weights are imported from; empty for weights that are trained."""
    source_form: str = "train"
    backbone: str = ""
    """The file that the network or its backbone starts from; for segmentation also the word random; else empty."""

    @property
    def key(self) -> str:
        """The part of the path that is the same for published weights and for training state."""
        return f"{self.dataset}/{self.model}/{self.digest}/seed{self.seed}"

    @property
    def folder(self) -> str:
        """The folder of the published weights."""
        return f"results/weights/{self.key}"

    @property
    def state(self) -> str:
        """The folder of the training state, which is never a declared output."""
        return f"results/state/{self.key}"

    def file(self, form: str) -> str:
        """The weights file of a form, `train` or `deploy`."""
        return f"{self.folder}/{form}.safetensors"

    @property
    def convertible(self) -> bool:
        """Whether the model has a deploy form that computes the same function."""
        return require_model(self.model).convertible

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that exist as files; a model that cannot be converted has its train form only."""
        if self.source_form == "deploy":
            return ("deploy",)
        return ("train", "deploy") if self.convertible else ("train",)

    def predictions(self, protocols: list[str]) -> list[str]:
        """The names of the files of per-image predictions, one for each form and protocol."""
        return [
            predictions_name(
                model=self.model,
                recipe=self.recipe,
                digest=self.digest,
                seed=self.seed,
                form=form,
                protocol=protocol,
            )
            for form in self.forms
            for protocol in protocols
        ]

    @property
    def history(self) -> str:
        """The history CSV of the training."""
        return f"{self.folder}/history.csv"


def weights_of(experiment: Experiment) -> list[Weights]:
    """Every set of weights of the experiment, in the order of its file: trained ones, or the released ones.

    Raises CompanionError if a released file cannot be used.
    """
    if experiment.released:
        return _released_weights(experiment, experiment.released)
    return [
        Weights(
            dataset=experiment.data.dataset,
            model=model,
            width=group.width,
            recipe=group.recipe,
            digest=digest_of(experiment, model, group.recipe, group.width, backbone_of(group, model)),
            seed=str(seed),
            protocol=experiment.evaluation.protocols_of(model)[0],
            backbone=backbone_of(group, model),
        )
        for group in experiment.training
        for model in group.models
        for seed in group.seeds
    ]


def _released_weights(experiment: Experiment, released: Released) -> list[Weights]:
    from repvgg_companion.experiment.released_files import released_files

    dataset = experiment.data.dataset
    files = released_files(
        released.folder,
        tuple(released.models),
        dataset,
        f"results/state/{dataset}/released-files.json",
    )
    return [
        Weights(
            dataset=dataset,
            model=file.model,
            width=file.width,
            recipe=file.recipe,
            digest=file.digest,
            seed="none",
            protocol=experiment.evaluation.protocols_of(file.model)[0],
            source=file.path,
            source_form=file.form,
        )
        for file in files
    ]


def backbone_of(group: TrainingGroup, model: str) -> str:
    """The file that a network, or its backbone, starts from, or `random`; empty where nothing is named."""
    return group.backbones.get(require_model(model).backbone or model, "")


def digest_of(experiment: Experiment, model: str, recipe: str, width: float, backbone: str = "") -> str:
    """The training digest of one model under one recipe of the experiment.

    A backbone enters by the content of its file; if the file does not exist yet (a dry run goes on without it), by its
    path.
    """
    start = sha256_of_file(backbone) if backbone and Path(backbone).is_file() else backbone
    return training_digest(
        model=model,
        width=width,
        num_classes=experiment.data.num_classes,
        dataset=experiment.data.dataset,
        recipe=experiment.recipes[recipe].settings(),
        backbone=start or None,
    )


def recipe_json(experiment: Experiment, recipe: str) -> str:
    """A recipe's settings as one line of JSON with sorted keys, as the `train` verb takes it."""
    return canonical_json(experiment.recipes[recipe].settings())


def train_manifest(experiment: Experiment, recipe: str) -> str:
    """The manifest that a recipe trains on: that of the images themselves or that of the packed copy."""
    folder, packed = f"results/data/{experiment.data.dataset}", experiment.recipes[recipe].packed
    return f"{folder}/packed/{packed}/train.parquet" if packed else f"{folder}/train.parquet"


def batches(weights: list[Weights], size: int) -> Iterator[tuple[str, list[Weights]]]:
    """Cut the weights into named jobs of at most `size`; a job of one carries the model's name."""
    for number, start in enumerate(range(0, len(weights), size), start=1):
        chunk = weights[start : start + size]
        if size == 1:
            only = chunk[0]
            yield f"{only.model}_{only.digest}_seed{only.seed}", chunk
        else:
            yield f"batch{number}", chunk


@dataclass(frozen=True)
class ComplexityGroup:
    """Models that are counted by one process: at one width, number of classes and input size.

    `of_images` counts with the number of classes that the index finds.
    """

    models: tuple[str, ...]
    width: float
    num_classes: int | None
    input_px: int | None
    of_images: bool = False

    @property
    def options(self) -> str:
        """The options of the `count-complexity` verb, without the file that holds the classes of the images."""
        size = f" --input-px {self.input_px}" if self.input_px else ""
        classes = f" --num-classes {self.num_classes}" if self.num_classes else ""
        return f"--models {' '.join(self.models)} --width {self.width}{classes}{size}"


def complexity_groups(experiment: Experiment) -> list[ComplexityGroup]:
    """The paper's networks at their full width and size, then the experiment's own where they differ.

    Their number of classes is that of the data, or else that of the measured speeds; if the file gives neither, it is
    that of the images.
    """
    groups = [ComplexityGroup(tuple(MODELS), 1.0, None, None)]
    classes, speed = experiment.data.num_classes, experiment.speed
    if classes is None and speed is not None and speed.num_classes != SpeedSettings.num_classes:
        classes = speed.num_classes
    for group in experiment.training:
        px = parse_protocol(experiment.evaluation.protocol).crop_px
        if experiment.data.segments:
            paper = {name: (1.0, MODELS[name].num_classes, MODELS[name].input_px) for name in group.models}
            models = [name for name in group.models if (group.width, classes, px) != paper[name]]
        else:
            is_full = (group.width, classes) == (1.0, 1000)
            models = [name for name in group.models if not (is_full and name in MODELS)]
        if models:
            groups.append(ComplexityGroup(tuple(models), group.width, classes, px, of_images=classes is None))
    merged: dict[tuple, list[str]] = {}
    for counted in groups:
        names = merged.setdefault((counted.width, counted.num_classes, counted.input_px, counted.of_images), [])
        names.extend(model for model in counted.models if model not in names)
    return [ComplexityGroup(tuple(models), *key) for key, models in merged.items()]


def evaluation_options(experiment: Experiment, members: list[Weights]) -> str:
    """The `--weights FILE PROTOCOL` options of one evaluating job."""
    return " ".join(
        f"--weights {weights.file(form)} {protocol}"
        for weights in members
        for form in weights.forms
        for protocol in experiment.evaluation.protocols_of(weights.model)
    )


def resolved_file(experiment: Experiment) -> str:
    """Where the resolved experiment is written: every key with its value, also those that the file leaves out."""
    return f"results/{experiment.experiment}/experiment.json"


def write_resolved(experiment: Experiment) -> str:
    """Write the resolved experiment if the file does not hold it already; returns its path.

    Rules hand verbs this file and the place in it (`FILE#speed`). No rule has it as an input, so its time re-runs
    nothing: each rule's `params` hold what decides.
    """
    path = Path(resolved_file(experiment))
    text = json_text(experiment.model_dump(mode="json"))
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    return str(path)


def rule_name(*parts: object) -> str:
    """The name of a rule: that of its verb, and of its part where a rule exists for each part of the work."""
    return re.sub(r"[^A-Za-z0-9_]", "_", "_".join(map(str, parts)))


def train_resources(experiment: Experiment, model: str) -> Resources:
    """The resources that a training job of `model` asks for."""
    return experiment.execution.train_by_model.get(model, experiment.execution.train)


def source_options(experiment: Experiment, demo_folder: str) -> dict[str, str]:
    """The options of the `index` verb that name the images, as option and path."""
    source = experiment.data.source
    if "generate" in source:
        return {
            "--train-archive": f"{demo_folder}/ILSVRC2012_img_train.tar",
            "--val-archive": f"{demo_folder}/ILSVRC2012_img_val.tar",
            "--devkit": f"{demo_folder}/ILSVRC2012_devkit_t12.tar.gz",
        }
    options = {key: "devkit" if key == "devkit_archive" else key.replace("_", "-") for key in source}
    return {f"--{options[key]}": path for key, path in source.items()}


def names_below(folder: str) -> str:
    """A digest of the names of all files below a folder: a copy has the same, whatever its dates."""
    names = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        names += [os.path.relpath(os.path.join(place, name), folder) for name in (*folders, *sorted(files))]  # noqa: PTH118
    return short_digest(names)


def plain(settings: Any) -> str:
    """Settings, or the whole experiment, as one line of JSON with sorted keys: what decides, for a rule's `params`."""
    return canonical_json(settings.as_dict() if hasattr(settings, "as_dict") else settings.model_dump(mode="json"))
