"""The `evaluate-segmentation` verb: weights files of both forms and a validation manifest with maps in, mIoU rows out.

IoU is that of Cityscapes: intersections and unions are summed over all images, and the mean is over the classes. What
each image adds is kept, so that comparisons are paired by image.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repvgg_companion.data.decode import UndecodableImages
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import SlidingProtocol, parse_protocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.evaluation.evaluate_files import Task, add_evaluation_arguments, evaluate_files

if TYPE_CHECKING:
    import pyarrow
    from torch import nn

RESAMPLES = 2000
COUNTS = ("agreed", "answered", "labelled")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `evaluate-segmentation` verb."""
    add_evaluation_arguments(parser, "slide713-pillow")


def mean_iou_pct(counts: np.ndarray) -> np.ndarray:
    """Mean IoU in percent of counts [..., 3, classes] (agreed, answered, labelled), over the classes that occur.

    A class that is neither labelled nor answered anywhere has no IoU and is left out.
    """
    agreed, answered, labelled = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = answered + labelled - agreed
    iou = np.divide(agreed, union, out=np.full(union.shape, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, axis=-1)


def pixel_accuracy_pct(counts: np.ndarray) -> float:
    """Share of the labelled pixels that are right, in percent, of counts [3, classes]."""
    return 100 * float(counts[0].sum() / counts[2].sum())


def resampled_mean_iou(per_image: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mean IoU in percent for each of `draws` [r, n]: how often each image is taken; counts are [n, 3, classes]."""
    n, rows, classes = per_image.shape
    totals = draws.astype(np.float64) @ per_image.reshape(n, rows * classes)
    return mean_iou_pct(totals.reshape(-1, rows, classes))


def image_draws(n: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each of n images is taken in each of `resamples` bootstrap samples: int64 [resamples, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate every named file; raises CompanionError where weights, images and protocol do not belong together."""
    evaluate_files(arguments, "evaluate-segmentation", "segmentation", _score)


def _score(task: Task) -> "tuple[dict[str, Any], pyarrow.Table]":
    manifest, protocol = task.manifest, parse_protocol(task.protocol)
    if manifest.maps is None:
        raise CompanionError(f"{manifest.path} lists no label maps; evaluate classification with evaluate")
    if not isinstance(protocol, SlidingProtocol):
        raise CompanionError(f"{task.protocol} evaluates single crops; segmentation takes one such as slide713-pillow")
    counts = count_pixels(task.module, manifest, protocol, task.device, task.undecodable, task.progress)
    totals = counts.sum(axis=0)
    sampled = resampled_mean_iou(counts, image_draws(len(counts), RESAMPLES))
    low, high = np.quantile(sampled, [0.025, 0.975])
    columns = {
        "backbone_sha256": task.identity.backbone_sha256 or "random",
        "input_px": protocol.window_px,
        "n_images": len(counts),
        "mean_iou_pct": float(mean_iou_pct(totals)),
        "mean_iou_low_pct": float(min(low, mean_iou_pct(totals))),
        "mean_iou_high_pct": float(max(high, mean_iou_pct(totals))),
        "pixel_accuracy_pct": pixel_accuracy_pct(totals),
    }
    return columns, _table(counts, list(manifest.names))


def count_pixels(
    module: "nn.Module",
    manifest: Manifest,
    protocol: SlidingProtocol,
    device: str,
    undecodable: UndecodableImages,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Counts per image, int64 [n, 3, classes]: agreed, answered and labelled pixels, in the order of the manifest.

    In eval mode and float32 without TF32. An image that cannot be decoded (policy `count`) counts nowhere. Raises
    CompanionError where a logit is not finite or no pixel is labelled.
    """
    import torch

    from repvgg_companion.data.batches.normalize import normalize
    from repvgg_companion.data.batches.segmentation_input import whole_images
    from repvgg_companion.evaluation.accuracy import exact_float32
    from repvgg_companion.models.pixel_classes import class_counts, slide

    module = module.eval().to(device, memory_format=torch.channels_last)
    counts = np.zeros((len(manifest), len(COUNTS), module.num_classes), np.int64)
    with torch.inference_mode(), exact_float32():
        for index, pair in enumerate(whole_images(manifest, undecodable=undecodable)):
            if pair is not None:
                image, labels = pair
                probabilities = slide(module, normalize(image, device=device, channels_last=True), protocol)
                if not torch.isfinite(probabilities).all():
                    raise CompanionError("the network gives logits that are not finite; train or convert it again")
                answers = probabilities.argmax(1)
                counts[index] = class_counts(answers, labels.to(device), module.num_classes).cpu().numpy()
            progress(1)
    if not counts[:, 2].sum():
        raise CompanionError(f"{manifest.path} has no labelled pixel; index the right label maps")
    return counts


def _table(counts: np.ndarray, names: list[str]) -> "pyarrow.Table":
    import pyarrow

    columns = {
        "index": pyarrow.array(range(len(counts)), pyarrow.int32()),
        "name": pyarrow.array(names, pyarrow.string()),
    }
    for place, name in enumerate(COUNTS):
        columns[name] = pyarrow.array(counts[:, place].tolist(), pyarrow.list_(pyarrow.int64()))
    return pyarrow.table(columns)


def read_counts(path: Path) -> np.ndarray:
    """The counts per image of a predictions file, int64 [n, 3, classes]."""
    from pyarrow import parquet

    table = parquet.read_table(path).sort_by("index")
    return np.stack([np.array(table[name].to_pylist(), np.int64) for name in COUNTS], axis=1)
