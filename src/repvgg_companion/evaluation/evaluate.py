"""The `evaluate` verb: weights files of both forms and a validation manifest in, accuracy rows and predictions out."""

import argparse
from pathlib import Path
from typing import Any

from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, read_json, sha256_of_file
from repvgg_companion.identity import WeightsIdentity, predictions_name
from repvgg_companion.runs import new_run_id, write_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `evaluate` verb."""
    add_evaluation_arguments(parser, "resize256-crop224-bilinear-pillow")
    parser.add_argument("--cache-folder", help="folder of decode-once caches, one PROTOCOL.npy each")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)


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


def run(arguments: argparse.Namespace) -> None:
    """Evaluate every named file; raises CompanionError where weights and images do not belong together."""
    import torch

    from repvgg_companion.data.decode import UndecodableImages
    from repvgg_companion.data.evaluation_input import EvaluationProtocol, evaluation_batches
    from repvgg_companion.data.manifest import Manifest
    from repvgg_companion.evaluation.accuracy import predict, wilson_interval_pct
    from repvgg_companion.models.build import build_model
    from repvgg_companion.progress import Progress
    from repvgg_companion.weights_file import load_weights

    manifest = Manifest.read(arguments.val_manifest)
    dataset = read_json(Path(arguments.val_manifest).with_name("dataset.json"))
    device = chosen_device(arguments.device)
    run_id = new_run_id("evaluate")
    rows: list[dict[str, Any]] = []
    unread: dict[int, str] = {}
    notes: dict[str, str] = {}
    with Progress("evaluating", total=len(manifest) * len(arguments.weights), unit="images") as progress:
        for path, label in arguments.weights:
            state, identity = load_weights(path)
            require_same_images(path, identity, dataset)
            protocol = EvaluationProtocol.parse(label)
            module = build_model(
                identity.model, num_classes=identity.num_classes, width=identity.width, form=identity.form
            )
            module.load_state_dict(state, strict=True)
            cache = Path(arguments.cache_folder) / f"{label}.npy" if arguments.cache_folder else None
            undecodable = UndecodableImages(arguments.undecodable)
            batches = evaluation_batches(
                manifest,
                protocol,
                batch_size=arguments.batch_size,
                workers=arguments.workers,
                cache=cache,
                undecodable=undecodable,
            )
            predictions = predict(module, batches, device=device, progress=progress.advance)
            for index in undecodable.found:
                predictions.top[index] = -1
                unread[index] = str(undecodable.found[index])
            del module, state
            if device == "cuda":
                torch.cuda.empty_cache()
            total = len(predictions.labels)
            low, high = wilson_interval_pct(predictions.top1_correct, total)
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
                    "protocol": label,
                    "input_px": protocol.crop_px,
                    "n_images": total,
                    "top1_pct": 100 * predictions.top1_correct / total,
                    "top1_low_pct": low,
                    "top1_high_pct": high,
                    "top5_pct": 100 * predictions.top5_correct / total,
                }
            )
            name = predictions_name(
                model=identity.model,
                recipe=identity.recipe,
                digest=identity.training_digest,
                seed=identity.seed,
                form=identity.form,
                protocol=label,
            )
            _write_predictions(Path(arguments.predictions) / name, predictions, rows[-1], run_id)
    write_run(
        arguments.runs,
        run_id,
        verb="evaluate",
        flags={"device": device, "precision": "fp32", "tf32": False, "batch_size": arguments.batch_size},
        weights=[path for path, _ in arguments.weights],
        val_manifest_sha256=manifest.sha256,
        undecodable_images=unread,
        weights_notes=notes,
    )
    write_rows(arguments.output, "accuracy", rows)


def chosen_device(wanted: str) -> str:
    """`cpu` or `cuda` for `auto`; raises CompanionError where a GPU is asked for and there is none."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CompanionError(
            "a GPU was asked for with --device cuda, but torch sees none; check the driver, or that the environment "
            "holds a CUDA build of torch"
        )
    return wanted


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


def _write_predictions(path: Path, predictions: Any, row: dict[str, Any], run_id: str) -> None:
    import json

    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "index": pyarrow.array(range(len(predictions.labels)), pyarrow.int32()),
            "label": pyarrow.array(predictions.labels, pyarrow.int32()),
            "top5": pyarrow.array(predictions.top.tolist(), pyarrow.list_(pyarrow.int32())),
            "margin": pyarrow.array(predictions.margin, pyarrow.float32()),
        }
    )
    table = table.replace_schema_metadata({"row": json.dumps(row, sort_keys=True), "run_id": run_id})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")
