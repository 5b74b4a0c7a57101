"""What the verbs that evaluate share: weights files, each with its protocol, and a validation manifest in; rows out.

Beside the rows, what the networks said of each image is kept in one Parquet file for each evaluated file and protocol.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.contract import write_rows
from repvgg_companion.data.decode import UndecodableImages
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, read_json, sha256_of_file
from repvgg_companion.identity import WeightsIdentity, predictions_of
from repvgg_companion.runs import new_run_id, write_run

if TYPE_CHECKING:
    import pyarrow
    from torch import nn


@dataclass(frozen=True)
class Task:
    """One network to score on the images of a manifest; `progress` takes the number of images that are done."""

    module: "nn.Module"
    identity: WeightsIdentity
    manifest: Manifest
    protocol: str
    device: str
    undecodable: UndecodableImages
    progress: Callable[[int], None]


Score = Callable[[Task], "tuple[dict[str, Any], pyarrow.Table]"]
"""From a task to its own columns of the row, and a table of one line per image."""


def add_evaluation_arguments(parser: argparse.ArgumentParser, protocol: str) -> None:
    """Options of every verb that evaluates weights files; `protocol` is named as an example."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument(
        "--weights",
        nargs=2,
        action="append",
        required=True,
        metavar=("FILE", "PROTOCOL"),
        help=f"a weights file of either form and the protocol to evaluate it by, such as {protocol}; may be repeated",
    )
    parser.add_argument("--val-manifest", required=True)
    parser.add_argument("--output", required=True, help="CSV of rows")
    parser.add_argument("--predictions", required=True, help="folder of per-image predictions")
    parser.add_argument("--runs", required=True, help="folder of run records")
    parser.add_argument(
        "--undecodable",
        choices=("stop", "count"),
        default="stop",
        help="an image that cannot be decoded stops the run, or counts as wrong and is listed in the run's record",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def evaluate_files(arguments: argparse.Namespace, verb: str, table: str, score: Score, **flags: Any) -> None:
    """Score every named file, write the run with `flags`, then the rows of `table`.

    Raises CompanionError where a file does not fit its network or was trained for other images.
    """
    import torch

    from repvgg_companion.models.load_form import load_form
    from repvgg_companion.progress import Progress
    from repvgg_companion.reparameterization.agreement import require_device
    from repvgg_companion.weights_file import load_weights

    manifest = Manifest.read(arguments.val_manifest)
    dataset = read_json(Path(arguments.val_manifest).with_name("dataset.json"))
    device = require_device(arguments.device)
    run_id = new_run_id(verb)
    rows: list[dict[str, Any]] = []
    unread: dict[int, str] = {}
    notes: dict[str, str] = {}
    with Progress("evaluating", total=len(manifest) * len(arguments.weights), unit="images") as progress:
        for path, protocol in arguments.weights:
            state, identity = load_weights(path)
            require_same_images(path, identity, dataset)
            module = load_form(identity, identity.form, state, dtype=torch.float32, device=device, what=path)
            undecodable = UndecodableImages(arguments.undecodable)
            task = Task(module, identity, manifest, protocol, device, undecodable, progress.advance)
            columns, answers = score(task)
            unread |= {index: str(found) for index, found in undecodable.found.items()}
            del module, state, task
            if device == "cuda":
                torch.cuda.empty_cache()
            digest = sha256_of_file(path)
            if identity.note:
                notes[digest] = identity.note
            rows.append(
                {
                    "experiment": arguments.experiment,
                    **identity.columns(),
                    "weights_sha256": digest,
                    "run_id": run_id,
                    "form": identity.form,
                    "protocol": protocol,
                    **columns,
                }
            )
            _write_answers(Path(arguments.predictions), answers, rows[-1])
    write_run(
        arguments.runs,
        run_id,
        verb=verb,
        flags={"device": device, "precision": "fp32", "tf32": False, **flags},
        weights=[path for path, _ in arguments.weights],
        val_manifest_sha256=manifest.sha256,
        undecodable_images=unread,
        weights_notes=notes,
    )
    write_rows(arguments.output, table, rows)


def require_same_images(path: str, identity: WeightsIdentity, dataset: dict[str, Any]) -> None:
    """Raise CompanionError unless weights and dataset have the same classes and, where known, the same images."""
    if identity.num_classes != dataset["num_classes"]:
        raise CompanionError(
            f"{path} knows {identity.num_classes} classes, but dataset {dataset['dataset']} has "
            f"{dataset['num_classes']}; evaluate it on the images it was trained for"
        )
    if identity.dataset_sha256 and identity.dataset_sha256 != dataset["dataset_sha256"]:
        raise CompanionError(
            f"{path} was trained on other images than dataset {dataset['dataset']} holds now; give the new images a "
            "dataset name of their own with --config 'data={dataset: NAME}'"
        )


def _write_answers(folder: Path, answers: "pyarrow.Table", row: dict[str, Any]) -> None:
    from pyarrow import parquet

    metadata = {"row": json.dumps(row, sort_keys=True), "run_id": row["run_id"]}
    with atomic_path(folder / predictions_of(row)) as temporary:
        parquet.write_table(answers.replace_schema_metadata(metadata), temporary, compression="zstd")
