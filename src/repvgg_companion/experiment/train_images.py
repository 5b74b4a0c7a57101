"""What is known about the images before a run: form, classes, and whether they are enough for one whole batch."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

from repvgg_companion.data.index.findings import IMAGE_SUFFIXES
from repvgg_companion.data.index.first_look import look_at, look_at_classes
from repvgg_companion.data.index.known_classes import KnownClasses
from repvgg_companion.data.index.labels_file import read_labels
from repvgg_companion.data.whole_batch import require_whole_batch
from repvgg_companion.errors import located
from repvgg_companion.experiment.experiment_file import Experiment
from repvgg_companion.files import read_json


def require_form(experiment: Experiment, origin: str) -> None:
    """Raise CompanionError if images that exist are not of the form that their key says, or not of these classes.

    What only a reading of all files can find is found by `index`.
    """
    for key, path in _there(experiment).items():
        require_kind(key, path, origin)
    require_classes(experiment, origin)


def require_kind(key: str, path: str, origin: str) -> None:
    """Raise CompanionError if the path that a key of `data` names is a file or folder of another kind."""
    with located(f"{origin}: data.{key}"):
        look_at(key, path)


def require_classes(experiment: Experiment, origin: str) -> None:
    """Raise CompanionError if class folders are not as the experiment says."""
    data, there = experiment.data, _there(experiment)
    known = KnownClasses(
        data.dataset,
        labels=read_labels(there["labels"]) if "labels" in there else None,
        num_classes=data.num_classes,
        chosen=tuple(data.classes),
    )
    with located(f"{origin}: data"):
        folders = there.get("train_folder"), there.get("val_folder")
        look_at_classes(known, *folders, devkit="devkit_archive" in data.source)


def _there(experiment: Experiment) -> dict[str, str]:
    """The keys that name images, with the paths that exist."""
    return {key: path for key, path in experiment.data.source.items() if key != "generate" and Path(path).exists()}


def batch_sizes(experiment: Experiment) -> dict[str, int]:
    """The global batch of each recipe that something is trained by, the largest first."""
    used = {group.recipe: experiment.recipes[group.recipe].global_batch_size for group in experiment.training}
    return dict(sorted(used.items(), key=lambda item: -item[1]))


def require_train_images(experiment: Experiment, origin: str, indexed: Path) -> None:
    """Raise CompanionError if a batch is larger than the training set, if that is known already.

    `indexed` is the `dataset.json` of an earlier run. What is known only later is checked by `index`.
    """
    for recipe, size in batch_sizes(experiment).items():
        images = _at_most(experiment, indexed, size)
        if images is None:
            return
        with located(origin):
            require_whole_batch(size, images, recipe)


def _at_most(experiment: Experiment, indexed: Path, enough: int) -> int | None:
    """How many training images there are at most, counted no further than `enough`; None if it is not known yet."""
    folder = experiment.data.train_folder
    if folder is not None and Path(folder).is_dir():
        try:
            return images_below(folder, enough)
        except OSError:  # `index` says what cannot be read
            return None
    if not indexed.exists():
        return None
    facts = read_json(indexed)
    places = [path for key, path in experiment.data.source.items() if key != "generate"]
    same = facts.get("chosen_classes") == experiment.data.classes and {*places} <= {*facts["sources"]}
    if not same or "train" not in facts or _is_older(indexed, places):
        return None
    return facts["train"]["n_images"]


def _is_older(indexed: Path, places: Iterable[str]) -> bool:
    """Whether images may have come since they were indexed: those of a folder may at any time."""
    there = [Path(place) for place in places if Path(place).exists()]
    return any(place.is_dir() or place.stat().st_mtime > indexed.stat().st_mtime for place in there)


def images_below(folder: str, enough: float = math.inf, above: tuple[str, ...] = ()) -> int:
    """The files below a folder that are images by their names, links followed, counted no further than `enough`."""
    real, count = os.path.realpath(folder), 0
    if real in above:
        return 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if count >= enough:
                break
            if entry.is_dir():
                count += images_below(entry.path, enough - count, (*above, real))
            else:
                count += entry.name.lower().endswith(IMAGE_SUFFIXES)
    return count
