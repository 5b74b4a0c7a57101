"""Rows of segmentation.csv in; the mIoU of a network, its columns of Table 8, and intervals of mIoU comparisons out.

Only the paper's setting counts: Cityscapes with its 500 validation images, full width, a backbone trained on ImageNet.
"""

from collections.abc import Sequence

import numpy as np

from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.grammar import NotAvailable
from repvgg_companion.paper.inference import CONFIDENCE, RESAMPLES, SEED, Span, over_seeds
from repvgg_companion.paper.ours import (
    PAPER_SEGMENTATION,
    Results,
    Row,
    describe_network,
    grouped,
    is_paper_network,
    predictions_path,
    traced,
)

VALIDATION_IMAGES = 500


def is_paper_segmentation(row: Row) -> bool:
    """Whether an mIoU belongs to the paper's images, network, window and kind of start."""
    return (
        row["dataset"] == PAPER_SEGMENTATION
        and is_paper_network(row)
        and row["n_images"] == VALIDATION_IMAGES
        and row["input_px"] == MODELS[row["model"]].input_px
        and row["backbone_sha256"] != "random"
    )


def groups(results: Results, model: str) -> list[list[Row]]:
    """The rows behind an mIoU: groups of one training, form and protocol, one row per seed, best first.

    The deploy form comes first, then the training with the most seeds. Raises NotAvailable with the reason if there
    are none.
    """
    mine = [row for row in results.rows("segmentation") if row["model"] == model]
    found = [row for row in mine if is_paper_segmentation(row)]
    if not mine:
        raise NotAvailable(f"{model} was not trained on Cityscapes")
    if not found:
        raise NotAvailable(f"{model} was evaluated on {_described(mine[0])} only, which decides nothing about Table 8")
    return trainings(found)


def trainings(rows: list[Row]) -> list[list[Row]]:
    """Rows in groups of one training, form and protocol, best first."""
    found = grouped(rows, lambda row: (row["form"] != "deploy", row["training_digest"] or "", row["protocol"]))
    ranked = sorted(found, key=lambda key: (key[0], -len(found[key]), key))
    return [sorted(found[key], key=lambda row: row["seed"] or "") for key in ranked]


def over_images(coefficients: Sequence[float], rows: Sequence[Sequence[Row]]) -> Span:
    """Bootstrap interval, in points, of sum c_i mIoU_i for new images; `rows` holds the seeds of each network.

    The same images are drawn for every network, and mIoU is recomputed from the sums of each sample.
    """
    from repvgg_companion.evaluation.intersection_over_union import image_draws, resampled_mean_iou
    from repvgg_companion.evaluation.predictions import read_counts

    counts = []
    for network in rows:
        for row in network:
            path = predictions_path(row)
            if not path.exists():
                raise NotAvailable(f"the counts per image of {row['model']} are missing")
            counts.append(read_counts(path))
    labelled = counts[0][:, 2]
    if any(part.shape != counts[0].shape or not np.array_equal(part[:, 2], labelled) for part in counts):
        raise NotAvailable("the counts belong to different images")
    draws = image_draws(len(labelled), RESAMPLES, SEED)
    total, place = np.zeros(RESAMPLES), 0
    for factor, network in zip(coefficients, rows, strict=True):
        for _ in network:
            total += factor / len(network) * resampled_mean_iou(counts[place], draws)
            place += 1
    if not np.ptp(total):
        raise NotAvailable("the counts of no image differ, so resampling gives no interval")
    low, high = np.quantile(total, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Span("new images", float(low), float(high))


def columns(results: Results, model: str, notes: list[str]) -> Row:
    """The accuracy columns of Table 8: ours on Cityscapes, and those on other images; what is empty says why."""
    row: Row = {}
    ours: list[Row] = []
    try:
        ours = groups(results, model)[0]
    except NotAvailable as reason:
        notes.append(f"ours_mean_iou: {str(reason).replace(f'{model} was', 'it was')}")
    row |= _columns("ours", ours)
    others = [part for part in results.rows("segmentation") if not is_paper_segmentation(part)]
    if others:
        mine = [part for part in others if part["model"] == model]
        row |= _columns("small", trainings(mine)[0] if mine else [])
        if mine:
            notes.append(f"small_mean_iou: measured on {_described(mine[0])}; no result of the paper")
    return row


def _described(row: Row) -> str:
    start = ", backbone from random weights" if row["backbone_sha256"] == "random" else ""
    return f"{describe_network(row)}, {row['n_images']} images{start}"


def _columns(prefix: str, rows: list[Row]) -> Row:
    low = high = None
    if rows:
        span = over_seeds([1.0], [[row["mean_iou_pct"] for row in rows]])
        low = span.low if span else min(row["mean_iou_low_pct"] for row in rows)
        high = span.high if span else max(row["mean_iou_high_pct"] for row in rows)
    return {
        f"{prefix}_mean_iou_pct": float(np.mean([row["mean_iou_pct"] for row in rows])) if rows else None,
        f"{prefix}_mean_iou_low_pct": low,
        f"{prefix}_mean_iou_high_pct": high,
        f"{prefix}_mean_pixel_acc_pct": float(np.mean([row["pixel_accuracy_pct"] for row in rows])) if rows else None,
        f"{prefix}_seeds": len(rows) or None,
        **traced(f"{prefix}_mean_iou", rows),
    }
