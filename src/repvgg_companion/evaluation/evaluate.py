"""The `evaluate` verb: weights files of both forms and a validation manifest in, accuracy rows and predictions out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.evaluation.evaluate_files import Task, add_evaluation_arguments, evaluate_files

if TYPE_CHECKING:
    import pyarrow

    from repvgg_companion.evaluation.accuracy import Predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `evaluate` verb."""
    add_evaluation_arguments(parser, "resize256-crop224-bilinear-pillow")
    parser.add_argument("--cache-folder", help="folder of decode-once caches, one PROTOCOL.npy each")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate every named file; raises CompanionError where weights and images do not belong together."""
    from repvgg_companion.data.batches.evaluation_input import evaluation_batches
    from repvgg_companion.data.protocols import EvaluationProtocol
    from repvgg_companion.evaluation.accuracy import predict, wilson_interval_pct

    def score(task: Task) -> "tuple[dict[str, Any], pyarrow.Table]":
        protocol = EvaluationProtocol.parse(task.protocol)
        batches = evaluation_batches(
            task.manifest,
            protocol,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            cache=Path(arguments.cache_folder) / f"{task.protocol}.npy" if arguments.cache_folder else None,
            undecodable=task.undecodable,
        )
        predictions = predict(task.module, batches, device=task.device, progress=task.progress)
        for index in task.undecodable.found:
            predictions.top[index] = -1
        total = len(predictions.labels)
        low, high = wilson_interval_pct(predictions.top1_correct, total)
        columns = {
            "input_px": protocol.crop_px,
            "n_images": total,
            "top1_pct": 100 * predictions.top1_correct / total,
            "top1_low_pct": low,
            "top1_high_pct": high,
            "top5_pct": 100 * predictions.top5_correct / total,
        }
        return columns, _table(predictions)

    evaluate_files(arguments, "evaluate", "accuracy", score, batch_size=arguments.batch_size)


def _table(predictions: "Predictions") -> "pyarrow.Table":
    import pyarrow

    return pyarrow.table(
        {
            "index": pyarrow.array(range(len(predictions.labels)), pyarrow.int32()),
            "label": pyarrow.array(predictions.labels, pyarrow.int32()),
            "top5": pyarrow.array(predictions.top.tolist(), pyarrow.list_(pyarrow.int32())),
            "margin": pyarrow.array(predictions.margin, pyarrow.float32()),
        }
    )
