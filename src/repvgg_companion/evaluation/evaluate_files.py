"""Score weights files on a validation manifest and write their rows, predictions and run record.

The verbs `evaluate` and `evaluate-segmentation` share this; each gives the function that scores one network.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.contract import write_rows
from repvgg_companion.data.decode import UndecodableImages
from repvgg_companion.data.label_order import (
    ILSVRC2012_WNIDS_SHA256,
    IMAGENET_CLASSES,
    LABEL_ORDERS,
    class_list_digest,
)
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError
from repvgg_companion.evaluation.predictions import write_predictions
from repvgg_companion.files import read_json, sha256_of_file
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.runs import new_run_id, write_run

if TYPE_CHECKING:
    import pyarrow
    from torch import nn

_ORDERS_OF_OTHERS = ("wnid", "devkit", "labels-file")
"""Label orders in which a label means the same class as for weights that were trained elsewhere."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The request of every verb that evaluates; `weights` are files, each with the label of its protocol.

    `undecodable` is `stop` or `count`: whether an image that cannot be decoded stops the run or counts as wrong.
    """

    experiment: str
    weights: tuple[tuple[str, str], ...]
    val_manifest: Path
    output: Path
    predictions: Path
    runs: Path
    undecodable: str
    device: str


@dataclass(frozen=True)
class Target:
    """The images of a manifest, by a protocol; `progress` is called with the number of images that are done."""

    manifest: Manifest
    protocol: str
    device: str
    undecodable: UndecodableImages
    progress: Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """One network to score."""

    module: "nn.Module"
    identity: WeightsIdentity
    target: Target


Score = Callable[[Task], "tuple[dict[str, Any], pyarrow.Table]"]
"""Scores a task: its own columns of the row, and a table with one line per image."""


def add_evaluation_arguments(parser: argparse.ArgumentParser, protocol: str) -> None:
    """Options of every verb that evaluates weights files; `protocol` is an example for the help text."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument(
        "--weights",
        nargs=2,
        action="append",
        required=True,
        metavar=("FILE", "PROTOCOL"),
        help=f"a weights file of either form and the protocol to evaluate it by, such as {protocol}; may be repeated",
    )
    parser.add_argument("--val-manifest", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="CSV of rows")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of predictions per image")
    parser.add_argument("--runs", type=Path, required=True, help="folder of run records")
    parser.add_argument(
        "--undecodable",
        choices=("stop", "count"),
        default="stop",
        help="an image that cannot be decoded stops the run, or counts as wrong and is listed in the run's record",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def evaluate_files(
    request: EvaluationRequest, verb: str, table: str, score: Score, flags: Mapping[str, Any] | None = None
) -> None:
    """Score every file of a request, write the run with `flags`, then the rows of `table`.

    Raises CompanionError if a file does not fit its network or these images.
    """
    from repvgg_companion.machine.device import choose_device
    from repvgg_companion.machine.torch_device import free_memory
    from repvgg_companion.progress import Progress

    manifest = Manifest.read(request.val_manifest)
    dataset = read_json(request.val_manifest.with_name("dataset.json"))
    device = choose_device(request.device)
    run_id = new_run_id(verb)
    rows: list[dict[str, Any]] = []
    unread: dict[int, str] = {}
    notes: dict[str, str] = {}
    with Progress("evaluating", total=len(manifest) * len(request.weights), unit="images") as progress:
        for path, protocol in request.weights:
            undecodable = UndecodableImages(request.undecodable)
            task = _task(path, dataset, Target(manifest, protocol, device, undecodable, progress.advance))
            columns, answers = score(task)
            identity = task.identity
            del task  # the network, before the next one is loaded
            free_memory(device)
            unread |= {index: str(found) for index, found in undecodable.found.items()}
            digest = sha256_of_file(path)
            if identity.note:
                notes[digest] = identity.note
            rows.append(
                {
                    "experiment": request.experiment,
                    **identity.columns(),
                    "weights_sha256": digest,
                    "run_id": run_id,
                    "form": identity.form,
                    "protocol": protocol,
                    **columns,
                }
            )
            write_predictions(request.predictions, answers, rows[-1])
    write_run(
        request.runs,
        run_id,
        verb=verb,
        flags={"device": device, "precision": "fp32", "tf32": False, **(flags or {})},
        weights=[path for path, _ in request.weights],
        val_manifest_sha256=manifest.sha256,
        undecodable_images=unread,
        weights_notes=notes,
    )
    write_rows(request.output, table, rows)


def _task(path: str, dataset: dict[str, Any], target: Target) -> Task:
    """The network of a weights file, after the checks that it can be scored on these images."""
    import torch

    from repvgg_companion.models.load_form import load_form
    from repvgg_companion.weights_file import load_weights

    state, identity = load_weights(path)
    require_same_classes(path, identity, dataset, target.manifest)
    module = load_form(identity, identity.form, state, dtype=torch.float32, device=target.device, what=path)
    return Task(module, identity, target)


def require_same_classes(
    path: str | Path, identity: WeightsIdentity, dataset: dict[str, Any], images: Manifest
) -> None:
    """Raise CompanionError unless a label means the same class for the weights and for the dataset.

    Weights that this companion trained know the digest of their images. Other weights have the order of their classes
    from elsewhere; it is that of the labels only if WNIDs, a devkit or a labels file number the classes, and a thousand
    sorted WNIDs only if they are those of ILSVRC2012.
    """
    name, label_order = dataset["dataset"], images.label_order
    if identity.num_classes != dataset["num_classes"]:
        raise CompanionError(
            f"{path} knows {identity.num_classes} classes, but dataset {name} has {dataset['num_classes']}; evaluate "
            "it on images of the classes it was trained for"
        )
    if identity.dataset_sha256 and identity.dataset_sha256 != dataset["dataset_sha256"]:
        raise CompanionError(
            f"{path} was trained on other images than dataset {name} holds now; give the new images a dataset name of "
            "their own with --config 'data={dataset: NAME}'"
        )
    if not identity.dataset_sha256 and label_order not in _ORDERS_OF_OTHERS:
        raise CompanionError(
            f"{path} was not trained on dataset {name}, whose labels follow its folder names or shards "
            f"({LABEL_ORDERS.get(label_order, label_order)}), so label 0 may be another class for these weights; name "
            "the folders by WNIDs, or number the classes with a labels file (data.labels, or index --labels)"
        )
    from_elsewhere = not identity.dataset_sha256 and identity.num_classes == IMAGENET_CLASSES
    if from_elsewhere and label_order == "wnid" and class_list_digest(images.classes) != ILSVRC2012_WNIDS_SHA256:
        raise CompanionError(
            f"{path} was not trained on dataset {name}, whose WNIDs are not the 1000 of ILSVRC2012, so label 0 may be "
            "another class for these weights; number the classes with a labels file (data.labels, or index --labels)"
        )
