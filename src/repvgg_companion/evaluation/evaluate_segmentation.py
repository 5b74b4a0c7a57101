"""The verb `evaluate-segmentation`: mean IoU and pixel accuracy of weights files on a manifest with label maps.

The counts of each image are kept, so that comparisons can be paired by image.
"""

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from repvgg_companion.data.protocols import SlidingProtocol, parse_protocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.evaluation.evaluate_files import EvaluationRequest, Task, add_evaluation_arguments, evaluate_files
from repvgg_companion.evaluation.intersection_over_union import (
    image_draws,
    mean_iou_pct,
    pixel_accuracy_pct,
    resampled_mean_iou,
)
from repvgg_companion.evaluation.predictions import COUNTS, counts_table
from repvgg_companion.settings import request_of

if TYPE_CHECKING:
    import pyarrow

RESAMPLES = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `evaluate-segmentation` verb."""
    add_evaluation_arguments(parser, "slide713-pillow")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate every named file; raises CompanionError if weights, images and protocol do not belong together."""
    request = request_of(EvaluationRequest, arguments)
    evaluate_files(request, "evaluate-segmentation", "segmentation", _score)


def _score(task: Task) -> "tuple[dict[str, Any], pyarrow.Table]":
    manifest, protocol = task.target.manifest, parse_protocol(task.target.protocol)
    if manifest.maps is None:
        raise CompanionError(f"{manifest.path} lists no label maps; evaluate classification with the verb evaluate")
    if not isinstance(protocol, SlidingProtocol):
        raise CompanionError(
            f"{task.target.protocol} evaluates single crops; give a protocol of segmentation such as slide713-pillow"
        )
    counts = count_pixels(task, protocol)
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
    return columns, counts_table(counts, list(manifest.names))


def count_pixels(task: Task, protocol: SlidingProtocol) -> np.ndarray:
    """Counts per image, int64 [n, 3, classes]: agreed, answered and labelled pixels, in the order of the manifest.

    In eval mode and float32 without TF32. An image that cannot be decoded (policy `count`) counts nowhere. Raises
    CompanionError if a logit is not finite or no pixel is labelled.
    """
    import torch

    from repvgg_companion.data.batches.normalize import normalize
    from repvgg_companion.data.batches.segmentation_input import whole_images
    from repvgg_companion.evaluation.accuracy import exact_float32, require_finite
    from repvgg_companion.models.pixel_classes import class_counts, slide

    manifest, device, num_classes = task.target.manifest, task.target.device, task.identity.num_classes
    module = task.module.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    counts = np.zeros((len(manifest), len(COUNTS), num_classes), np.int64)
    with torch.inference_mode(), exact_float32():
        for index, pair in enumerate(whole_images(manifest, undecodable=task.target.undecodable)):
            if pair is not None:
                image, labels = pair
                probabilities = slide(module, normalize(image, device=device, channels_last=True), protocol)
                require_finite(probabilities)
                answers = probabilities.argmax(1)
                counts[index] = class_counts(answers, labels.to(device), num_classes).cpu().numpy()
            task.target.progress(1)
    if not counts[:, 2].sum():
        raise CompanionError(f"{manifest.path} has no labelled pixel; index the right label maps")
    return counts
