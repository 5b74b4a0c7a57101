"""The `dictionary` verb: every column of the result tables with its type, unit and meaning, as one CSV file."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from repvgg_companion.contract import TABLES, Column
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import csv_text, write_text

HEADER = ("table", "column", "type", "unit", "range", "may_be_empty", "meaning")
_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_UNITS = {
    "_pct": "percent, 0 to 100",
    "_px": "pixels",
    "_ms": "milliseconds",
    "_mib": "MiB",
    "_s": "seconds",
    "images_per_s": "images/s",
    "examples_per_s": "examples/s",
    "_sha256": "64 hexadecimal digits",
}
"""Units by the end of a column's name; the longest that fits counts."""
_OTHER_UNITS = {
    "tflops": "TFLOPS (2 operations a multiply-add)",
    "flops": "multiply-adds of one image",
    "wino_muls": "multiplications of one image",
    "roofline_share": "share, 0 to 1",
    "tolerance": "points",
    "width": "multiple of the paper's width",
    "training_digest": "8 hexadecimal digits",
    "float64_max_relative_error": "share of the largest logit",
    "float32_max_relative_error": "share of the largest logit",
}
MEANINGS = {
    # History of a training.
    "epoch": "the epoch, counted from 1",
    "learning_rate": "learning rate of the first step of the epoch",
    "train_loss": "mean training loss over the epoch",
    "train_top1_pct": "top-1 on the training images as they were augmented",
    "val_top1_pct": "right answers on the validation images after the epoch; empty where the recipe does not validate",
    "images_per_s": "training speed over the epoch",
    "elapsed_s": "time since the training began, validation included, interruptions left out",
    # Which network, trained how, in which run.
    "experiment": "the experiment, a file in config/ or a plan in benchmarks/",
    "dataset": "the named set of images; empty where no images were used",
    "model": "the network's name in the registry",
    "base_model": "the part of the name before the underscore",
    "variation": "the part after it: how the network differs from its base",
    "width": "1 is the paper's network, 0.25 a quarter of its channels",
    "num_classes": "classes that the network tells apart",
    "recipe": "the named training settings",
    "training_digest": "digest of all that determines the weights except seed and device",
    "seed": "the seed of the training, 'none' for released weights",
    "weights_sha256": "SHA-256 of the weights file, or the word random",
    "run_id": "the run; runs/RUN_ID.json holds commit, environment, command and flags",
    "form": "train (branches) or deploy (plain)",
    "protocol": "accuracy: resize, crop, interpolation and decoder; speed: order of the measurements",
    "input_px": "height and width of an input image",
    # Certificates.
    "float64_max_relative_error": "largest difference of the logits of both forms, both computed in float64",
    "file_matches_conversion": "the deploy file equals the float64 conversion rounded to float32, bit for bit",
    "float32_max_relative_error": "the same difference for the two files in float32",
    "prediction_flips": "inputs for which the two files predict different classes",
    "n_inputs": "inputs that both forms were compared on",
    "train_params": "parameters of the train form",
    "deploy_params": "parameters of the deploy form",
    "train_sha256": "SHA-256 of the train file",
    "deploy_sha256": "SHA-256 of the deploy file",
    "passed": "the algebra and the file are right",
    # Accuracy and segmentation.
    "n_images": "images that were evaluated",
    "top1_pct": "images whose label is the first prediction",
    "top1_low_pct": "lower end of the 95 % Wilson interval of top-1, for new images",
    "top1_high_pct": "upper end of that interval",
    "top5_pct": "images whose label is among the first five predictions",
    "backbone_sha256": "SHA-256 of the weights that the backbone started from, or the word random",
    "mean_iou_pct": "mean over the classes of intersection over union",
    "mean_iou_low_pct": "lower end of the bootstrap 95 % interval of mIoU, for new images",
    "mean_iou_high_pct": "upper end of that interval",
    "pixel_accuracy_pct": "labelled pixels whose class is right",
    # Counts, speed and memory.
    "params": "parameters of the built network",
    "flops": "multiply-adds as the paper counts them",
    "wino_muls": "multiplications where Winograd's algorithm runs the 3x3 convolutions with stride 1",
    "device": "the measured machine",
    "precision": "fp32, tf32, fp16 or bf16",
    "memory_format": "contiguous or channels_last",
    "backend": "what ran the network: eager, compile, fused, onnxruntime and others",
    "batch_size": "images in one batch",
    "examples_per_s": "median speed",
    "low_examples_per_s": "lower end of the bootstrap 95 % interval of the median",
    "high_examples_per_s": "upper end of that interval",
    "p10_examples_per_s": "10th percentile of the single samples",
    "p90_examples_per_s": "90th percentile of the single samples",
    "n_samples": "timed samples behind the row",
    "peak_memory_mib": "peak memory of the device while the network ran",
    "roofline_share": "share of the roofline: the least time by the measured ceilings over the measured time",
    "flags": "what disturbed the measurement, or why nothing was measured; for a claim, that of its speeds",
    "kernel_size": "height and width of the convolution's kernel",
    "channels": "input and output channels of the convolution",
    "resolution_px": "height and width of the convolution's input",
    "time_ms": "median time of one batch",
    "low_ms": "lower end of the bootstrap 95 % interval of the time",
    "high_ms": "upper end of that interval",
    "tflops": "operations in the time of one batch",
    "layer": "the point of Figure 3, or the whole network",
    "live_feature_map_mib": "feature maps that must be kept at this point",
    "peak_mib": "peak memory of the whole network",
    # Beside timm.
    "work": "inference, or a training step",
    "way": "whose network, and how it ran, such as ours fused-cuda-graph",
    "over_timm": "speed over that of timm's fastest way, paired round by round",
    "low_over_timm": "lower end of the bootstrap 95 % interval of that ratio",
    "high_over_timm": "upper end of that interval",
    # Claims.
    "id": "the claim of paper/claims.csv",
    "claim": "the claim in words",
    "kind": "arithmetic, structural, value, difference, order or ratio",
    "condition": "what must hold, in the grammar of paper/README.md",
    "paper_value": "the printed value",
    "our_value": "our value of each term; with several terms each has its interval; "
    "an order of speeds has both medians and the ratio paired round by round",
    "low": "lower end of the 95 % interval of the first term that has one",
    "high": "upper end of that interval",
    "tolerance": "by this much an equality may be missed",
    "verdict_number": "is the printed value or order met",
    "verdict_inference": "would it hold for new images, new seeds, or beyond the noise of the device",
    "reason": "why, for each term",
    "evidence": "the rows that the verdicts rest on; the verb `why` follows them",
    # Two sides beside each other.
    "section": "accuracy, segmentation, ratio, speed, kernel_size, memory, complexity or claims",
    "subject": "the network, pair, kernel or claim",
    "setting": "images, network and protocol, or precision, backend and batch",
    "quantity": "what is compared, with its unit",
    "a": "value of the first side",
    "a_low": "lower end of its 95 % interval",
    "a_high": "upper end of that interval",
    "b": "value of the second side",
    "b_low": "lower end of its 95 % interval",
    "b_high": "upper end of that interval",
    "change": "second less first, where the two may be compared",
    "change_low": "lower end of the 95 % interval of the change",
    "change_high": "upper end of that interval",
    "method": "how the change and its interval were found",
    "a_verdict": "verdicts of the first side: number / inference",
    "b_verdict": "verdicts of the second side",
    "note": "why there is no change, or what to know of it",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `dictionary` verb."""
    parser.add_argument("--output", default="results/reference/dictionary.csv", help="the CSV file to write")


def run(arguments: argparse.Namespace) -> None:
    """Write the dictionary."""
    write_text(Path(arguments.output), as_csv())


def as_csv() -> str:
    """The dictionary as CSV, in the order of the contract."""
    return csv_text([HEADER, *entries()])


def entries() -> Iterator[tuple[str, ...]]:
    """One line a column; raises CompanionError for a column without a meaning."""
    for table, contract in TABLES.items():
        for column in contract.columns:
            if column.name not in MEANINGS:
                raise CompanionError(f"column {column.name} of table {table} has no meaning in evidence/dictionary.py")
            empty = "yes" if column.optional else "no"
            kind = _TYPES[column.type]
            yield table, column.name, kind, unit_of(column), _range(column), empty, MEANINGS[column.name]


def unit_of(column: Column) -> str:
    """The unit of a column; empty for text and for plain counts."""
    if column.name in _OTHER_UNITS:
        return _OTHER_UNITS[column.name]
    ends = [end for end in _UNITS if column.name.endswith(end)]
    return _UNITS[max(ends, key=len)] if ends else ""


def _range(column: Column) -> str:
    if column.pattern and "|" in column.pattern and "[" not in column.pattern:
        return column.pattern.replace("|", ", ")
    low, high = (None if end is None else f"{end:g}" for end in (column.low, column.high))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else ""
