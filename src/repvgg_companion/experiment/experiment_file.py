"""The pydantic model of an experiment file.

Unknown keys are refused everywhere. The JSON schema in `workflow/schemas/` is generated from this module.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from repvgg_companion.data.protocols import SlidingProtocol, parse_protocol
from repvgg_companion.errors import CompanionError, did_you_mean
from repvgg_companion.models.names import require_model
from repvgg_companion.speed.speed_settings import KernelSettings, MemorySettings, SpeedSettings
from repvgg_companion.training.recipe import Recipe

NAME_PATTERN, RUNTIME_PATTERN = r"^[a-z0-9][a-z0-9.-]*$", r"^\d+[mhd]$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""An experiment, dataset or recipe: lower case, digits, dots and hyphens, because it becomes a folder."""

SOURCES: dict[str, tuple[str, ...]] = {
    "generate": (),
    "train_archive": ("val_archive", "devkit_archive", "labels"),
    "zip": ("labels",),
    "train_folder": ("val_folder", "devkit_archive", "labels"),
    "kaggle_folder": ("labels",),
    "parquet_folder": ("devkit_archive", "labels"),
    "cifar_archive": (),
    "cityscapes_folder": (),
    "val_archive": ("devkit_archive", "labels"),
    "val_folder": ("devkit_archive", "labels"),
}
"""Each form of a dataset: the key that names it, and the keys that may stand beside that one."""


Place = Annotated[str, AfterValidator(os.path.expanduser)]
"""The path of a file or folder; `~` is the home folder."""


class Strict(BaseModel):
    """A part of an experiment file; a key that is not named here is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _known(text: str, check: Callable[[str], Any]) -> str:
    """`text` if `check` accepts it; else a ValueError, as pydantic expects."""
    try:
        check(text)
    except CompanionError as error:
        raise ValueError(str(error)) from None
    return text


def _known_model(name: str) -> str:
    return _known(name, require_model)


def _known_protocol(label: str) -> str:
    return _known(label, parse_protocol)


def _no_doubles(names: list, what: str) -> list:
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what} {doubles[0]} is named twice; name it once")
    return names


def _known_models(names: list[str]) -> list[str]:
    return _no_doubles([_known_model(name) for name in names], "model")


Seeds = Annotated[
    list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(lambda seeds: _no_doubles(seeds, "seed"))
]
Classes = Annotated[list[str], AfterValidator(lambda names: _no_doubles(names, "class"))]
"""Names of classes, each once."""
Models = Annotated[list[str], AfterValidator(_known_models)]
SomeModels = Annotated[list[str], Field(min_length=1), AfterValidator(_known_models)]
"""Names of networks that this companion builds, each once; at least one of them."""
Protocol = Annotated[str, AfterValidator(_known_protocol)]
Protocols = Annotated[
    list[str], AfterValidator(lambda labels: _no_doubles([_known_protocol(label) for label in labels], "protocol"))
]
ProtocolByModel = Annotated[
    dict[str, str],
    AfterValidator(lambda chosen: {_known_model(model): _known_protocol(label) for model, label in chosen.items()}),
]


class Data(Strict):
    """Which images: a dataset's name, where its images are, and how they are checked."""

    dataset: Name = Field(description="name of the image set; its manifests and weights live under this name")
    num_classes: int | None = Field(
        None, ge=2, description="checked against the images where it is given; part of the training digest"
    )
    classes: Classes = Field([], description="names of class folders (WNIDs); only these are kept; not with labels")
    generate: Literal["digits"] | None = Field(None, description="make the demo data on this machine")
    train_archive: Place | None = Field(None, description="ILSVRC2012_img_train.tar")
    val_archive: Place | None = Field(None, description="ILSVRC2012_img_val.tar")
    devkit_archive: Place | None = Field(None, description="ILSVRC2012_devkit_t12.tar.gz")
    zip: Place | None = Field(None, description="a zip: train/CLASS and val/CLASS, tiny-imagenet-200.zip or Kaggle's")
    train_folder: Place | None = Field(None, description="a folder with one folder of images per class, of any name")
    val_folder: Place | None = Field(None, description="the same for validation, or a flat folder beside a devkit")
    kaggle_folder: Place | None = Field(None, description="the folder that holds ILSVRC/ and LOC_val_solution.csv")
    parquet_folder: Place | None = Field(None, description="Parquet shards train-* and validation-*")
    cifar_archive: Place | None = Field(None, description="cifar-10-binary.tar.gz or cifar-100-binary.tar.gz")
    cityscapes_folder: Place | None = Field(None, description="the folder that holds leftImg8bit/ and gtFine/")
    labels: Place | None = Field(
        None, description="a file with the label of each class folder; needed for released weights on own folders"
    )
    verify: bool = Field(True, description="compare the archives with their published digests, where there are any")
    undecodable: Literal["stop", "count"] = Field("stop", description="what an image that cannot be decoded does")
    cache: bool = Field(True, description="decode the validation images once for all evaluations")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if not given:
            raise ValueError(f"no images are named; set one of {', '.join(SOURCES)}")
        main, *others = given
        others += [key for key in ("devkit_archive", "labels") if getattr(self, key) is not None]
        if unfit := [key for key in others if key not in SOURCES[main]]:
            raise ValueError(f"the images are named twice, by {main} and by {unfit[0]}; leave one of them out")
        needed = {"train_archive": "val_archive", "train_folder": "val_folder"}.get(main)
        if needed is not None and needed not in others:
            raise ValueError(f"{main} needs {needed} beside it; add it")
        if {"devkit_archive", "labels"} <= set(others):
            raise ValueError("devkit_archive and labels both number the classes; leave one of them out")
        if self.classes and ("labels" in others or self.segments):
            raise ValueError(f"classes does not go with {'labels' if 'labels' in others else main}; leave it out")
        return self

    @property
    def source(self) -> dict[str, str]:
        """The keys that name the images, with their paths, in the order of `SOURCES`."""
        keys = dict.fromkeys([*SOURCES, "devkit_archive", "labels"])
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}

    @property
    def segments(self) -> bool:
        """Whether the images have label maps instead of labels."""
        return self.cityscapes_folder is not None

    @property
    def caches(self) -> bool:
        """Whether decoded validation images are kept; never those of scenes, which are read in windows."""
        return self.cache and not self.segments

    @property
    def trains(self) -> bool:
        """Whether there can be training images; a zip, Kaggle's folder or shards may turn out to hold none."""
        return next(key for key in SOURCES if getattr(self, key) is not None) not in ("val_archive", "val_folder")


class TrainingGroup(Strict):
    """Some models that are trained by one recipe, at one width, with some seeds."""

    models: SomeModels = Field(description="names of networks")
    recipe: Name = Field(description="a name from recipes")
    seeds: Seeds = Field([0], description="one training for each seed")
    width: float = Field(1.0, gt=0, le=4, description="factor on every stage's width; 1 is the paper's network")
    backbones: dict[str, Place] = Field(
        {},
        description="the train file that a network starts from (fine-tuning), or for PSPNet the backbone (or random)",
    )

    @model_validator(mode="after")
    def _every_backbone(self) -> Self:
        needed = {require_model(model).backbone for model in self.models} - {""}
        if missing := sorted(needed - self.backbones.keys()):
            raise ValueError(
                f"trains PSPNet with the backbone {missing[0]}, but backbones names no weights for it; name its "
                f"train.safetensors, as in backbones: {{{missing[0]}: FILE}}, or write random"
            )
        classifiers = {model for model in self.models if not require_model(model).backbone}
        if random := sorted(name for name in classifiers - needed if self.backbones.get(name) == "random"):
            raise ValueError(
                f"backbones says that {random[0]} starts from random weights, as it does anyway; leave it out"
            )
        if unused := sorted(self.backbones.keys() - needed - classifiers):
            raise ValueError(f"backbones names {unused[0]}, which no model of the group starts from; leave it out")
        return self


class Released(Strict):
    """Weights that exist already: a folder of files from the authors, timm or mmpretrain."""

    folder: Place = Field(description="the folder of the weights files")
    models: Models = Field([], description="which to use; empty means every file that is there")


class Evaluation(Strict):
    """How accuracy is measured."""

    protocol: Protocol = Field("resize256-crop224-bilinear-pillow", description="the protocol of the reported accuracy")
    protocol_by_model: ProtocolByModel = Field({}, description="models that are evaluated otherwise, such as D2se")
    further_protocols: Protocols = Field([], description="reported as rows of their own")
    batch_size: int = Field(100, ge=1, description="images at a time")
    workers: int = Field(0, ge=0, description="loader processes where there is no cache")

    def protocols_of(self, model: str) -> list[str]:
        """The protocols of one model, the reported one first."""
        first = self.protocol_by_model.get(model, self.protocol)
        return [first, *(label for label in self.further_protocols if label != first)]


class Resources(Strict):
    """The resources that a job of one rule asks for; a cluster profile passes them on."""

    threads: int = Field(1, ge=1, description="CPU cores")
    gpu: int = Field(0, ge=0, description="GPUs")
    mem_mb: int = Field(4000, ge=1, description="memory in megabytes")
    runtime: str = Field("1h", pattern=RUNTIME_PATTERN, description="time limit on a cluster, such as 90m, 12h or 5d")

    @property
    def minutes(self) -> int:
        """The run time in minutes."""
        return int(self.runtime[:-1]) * {"m": 1, "h": 60, "d": 1440}[self.runtime[-1]]


class Execution(Strict):
    """How the work is cut into jobs."""

    models_per_job: int = Field(1, ge=1, description="weights that one converting or evaluating process handles")
    index: Resources = Field(Resources(), description="jobs that index, pack and cache images")
    train: Resources = Field(Resources(), description="a training")
    train_by_model: dict[str, Resources] = Field(
        {}, description="trainings of single networks that ask for more or less"
    )
    reparameterize: Resources = Field(Resources(), description="a conversion")
    evaluate: Resources = Field(Resources(), description="an evaluation")
    measure: Resources = Field(Resources(), description="a measurement of speed or memory")

    @field_validator("train_by_model")
    @classmethod
    def _by_model(cls, chosen: dict[str, Resources]) -> dict[str, Resources]:
        return {_known_model(model): resources for model, resources in chosen.items()}


class Experiment(Strict):
    """One experiment file."""

    experiment: Name = Field(description="names the folders results/NAME and paper_figures/NAME")
    data: Data = Field(description="which images")
    recipes: dict[Name, Recipe] = Field({}, description="named sets of training settings")
    training: list[TrainingGroup] = Field([], description="which networks are trained, by which recipe")
    released: Released | None = Field(None, description="weights that exist already, instead of training")
    reparameterization_inputs: int = Field(64, ge=1, description="real images that each certificate rests on")
    evaluation: Evaluation = Field(Evaluation(), description="how accuracy is measured")
    speed: SpeedSettings | None = Field(None, description="speed of classifiers; left out, none is measured")
    segmentation_speed: SpeedSettings | None = Field(None, description="the same for the networks of Table 8")
    kernel_size: KernelSettings | None = Field(None, description="Table 1 on this machine; left out, not measured")
    memory: MemorySettings | None = Field(None, description="Figure 3 on this machine; left out, not measured")
    execution: Execution = Field(Execution(), description="how the work is cut into jobs, and what they ask for")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, recipe in self.recipes.items():
            if recipe.packed and "packed" not in name:
                raise ValueError(
                    f"the recipe {name} trains on a packed copy, so its name must say so; call it {name}-packed"
                )
        seen = set()
        for group in self.training:
            if group.recipe not in self.recipes:
                hint = did_you_mean(group.recipe, sorted(self.recipes), "defined are")
                raise ValueError(f"training names the recipe {group.recipe}, which recipes does not define; {hint}")
            for model in group.models:
                for seed in group.seeds:
                    if (model, group.recipe, group.width, seed) in seen:
                        raise ValueError(
                            f"training names model {model} with recipe {group.recipe}, width {group.width:g} and seed "
                            f"{seed} twice; name it once"
                        )
                    seen.add((model, group.recipe, group.width, seed))
        self._require_tasks_that_fit()
        if self.training and not self.data.trains:
            raise ValueError("training needs training images, but data gives validation images only")
        if self.released and self.training:
            raise ValueError("released and training exclude each other; make two experiments of them")
        return self

    def _require_tasks_that_fit(self) -> None:
        """Networks, images and protocols all classify, or all segment."""
        segments = self.data.segments
        said = "label maps" if segments else "no label maps"
        for model in (model for group in self.training for model in group.models):
            if (require_model(model).family == "PSPNet") != segments:
                raise ValueError(f"training names {model}, but data has {said}; name a network that fits the images")
        if not (self.training or self.released):
            return
        labels = [self.evaluation.protocol, *self.evaluation.further_protocols]
        labels += [*self.evaluation.protocol_by_model.values()]
        labels += [self.recipes[group.recipe].validation for group in self.training]
        for label in labels:
            if isinstance(parse_protocol(label), SlidingProtocol) != segments:
                example = "slide713-pillow" if segments else "resize256-crop224-bilinear-pillow"
                raise ValueError(f"evaluates by {label}, but data has {said}; write a protocol such as {example}")
