"""The verb `evaluate`: top-1 and top-5 of weights files on a validation manifest, and their predictions per image."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.evaluation.evaluate_files import EvaluationRequest, Task, add_evaluation_arguments, evaluate_files
from repvgg_companion.settings import request_of

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class EvaluateRequest(EvaluationRequest):
    """The request of the verb; `cache_folder` holds decoded images, one PROTOCOL.npy each."""

    cache_folder: Path | None
    batch_size: int
    workers: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `evaluate` verb."""
    add_evaluation_arguments(parser, "resize256-crop224-bilinear-pillow")
    parser.add_argument(
        "--cache-folder", type=Path, help="folder of decoded images from the verb cache, one PROTOCOL.npy each"
    )
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate every named file; raises CompanionError if weights and images do not belong together."""
    request = request_of(EvaluateRequest, arguments)
    flags = {"batch_size": request.batch_size}
    evaluate_files(request, "evaluate", "accuracy", lambda task: _score(task, request), flags)


def _score(task: Task, request: EvaluateRequest) -> "tuple[dict[str, Any], pyarrow.Table]":
    from repvgg_companion.data.batches.evaluation_input import evaluation_batches
    from repvgg_companion.data.protocols import EvaluationProtocol
    from repvgg_companion.evaluation.accuracy import accuracy_columns, predict

    target = task.target
    protocol = EvaluationProtocol.parse(target.protocol)
    batches = evaluation_batches(
        target.manifest,
        protocol,
        batch_size=request.batch_size,
        workers=request.workers,
        cache=request.cache_folder / f"{target.protocol}.npy" if request.cache_folder else None,
        undecodable=target.undecodable,
    )
    predictions = predict(task.module, batches, device=target.device, progress=target.progress)
    for index in target.undecodable.found:
        predictions.top[index] = -1
    return {"input_px": protocol.crop_px, **accuracy_columns(predictions)}, predictions.table()
