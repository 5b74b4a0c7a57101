"""Rows of each class to plant among the evidence."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from repvgg_companion.contract import write_rows
from repvgg_companion.evaluation.accuracy import wilson_interval_pct
from repvgg_companion.evaluation.predictions import Predictions, write_predictions
from repvgg_companion.evidence.check_studies import add_study
from repvgg_companion.evidence.sources import Sources, read_sources
from repvgg_companion.files import write_json
from repvgg_companion.identity import training_digest
from repvgg_companion.models.names import require_model
from repvgg_companion.paper.printed import Facts
from repvgg_companion.speed.measure_memory import FIGURE_3
from repvgg_companion.speed.samples import KEY, Sample, Samples
from repvgg_companion.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
SPEED_SOURCE = "results/planted-speed.csv"
REEVALUATION, RETRAINING, STUDY = "Planted re-evaluation", "Planted retraining", "planted-study"


def sources_of(root: Path) -> Sources:
    """What the ledger of the folders below `root` is made from."""
    return read_sources(root / "paper", root / "results" / "devices", root / "results" / "studies")


def append(path: Path, **cells: str) -> None:
    """Append one row to a CSV file; columns that are not named stay empty."""
    with path.open(encoding="utf-8", newline="") as stream:
        header = next(csv.reader(stream))
    assert set(cells) <= set(header)
    with path.open("a", encoding="utf-8", newline="") as stream:
        csv.DictWriter(stream, header, lineterminator="\n").writerow({name: cells.get(name, "") for name in header})


def plant_everything(root: Path) -> None:
    """A speed table, a re-evaluation, a retraining and a small study, all of the claims C24, C27 and C38; a device."""
    for model, form, speed in (("RepVGG-B1g2", "deploy", "3000"), ("ResNet-152", "as built", "1000")):
        append(
            root / "paper" / "third_party_speed.csv", source_file=SPEED_SOURCE, published="2026-01-01",
            device="rtx3090", precision="fp32", memory_format="contiguous", torch="2.9.1", compute_library="cu130",
            backend="eager", model=model, timm_name=model.lower(), form=form, input_px="224", batch_size="128",
            images_per_s=speed, params_m="41.36",
        )  # fmt: skip
    accuracy = {"model": "RepVGG-B2", "model_form": "training", "input_px": "224", "n_images": "50000"}
    path = root / "paper" / "third_party_accuracy.csv"
    append(path, **accuracy, source=REEVALUATION, kind="official weights, re-evaluated", top1_pct="70.00")
    append(path, **accuracy, source=RETRAINING, kind="retrained by a user", top1_pct="78.60", recipe="120-epochs")
    plant_study(root)
    plant_device(root)


STUDY_RECIPE = {"epochs": 2, "global_batch_size": 32, "batch_norm_batch_size": 32, "learning_rate": 0.03}
STUDY_TOP1 = {"RepVGG-B0": 60, "RepVGG-B0_plain": 55, "RepVGG-B0_identity-only": 61, "RepVGG-B0_1x1-only": 57}
"""Right answers of seed 0, of a hundred images; each further seed has one more."""


def plant_study(root: Path) -> None:
    """A finished experiment of four networks with five seeds, and the study that is made from it."""
    results = root / "results" / STUDY
    models = list(STUDY_TOP1)
    write_json(results / "experiment.json", {
        "experiment": STUDY, "data": {"dataset": "other-images", "num_classes": 10}, "recipes": {"study": STUDY_RECIPE},
        "training": [{"models": models, "recipe": "study", "seeds": [0, 1, 2, 3, 4], "width": 0.25}],
    })  # fmt: skip
    write_json(results / "provenance.json", {})
    for run_id in ("evaluate", "reparameterize"):
        write_json(results / "runs" / f"{run_id}.json", {})
    rows, certificates = [], []
    for model in models:
        base, _, variation = model.partition("_")
        digest = training_digest(
            model=model, width=0.25, num_classes=10, dataset="other-images", recipe=Recipe(**STUDY_RECIPE).settings()
        )
        for seed in range(5):
            identity = {
                "experiment": STUDY, "dataset": "other-images", "model": model, "base_model": base,
                "variation": variation or None, "width": 0.25, "num_classes": 10, "recipe": "study",
                "training_digest": digest, "seed": str(seed),
            }  # fmt: skip
            right = STUDY_TOP1[model] + seed
            top = np.tile(np.arange(5), (100, 1))
            top[right:] = [5, 0, 6, 7, 8]  # the label, 0, is second
            predictions = Predictions(np.zeros(100, int), top, np.ones(100))
            low, high = wilson_interval_pct(right, 100)
            weights = f"{model}-{seed}"
            row = identity | {
                "weights_sha256": weights, "run_id": "evaluate", "form": "deploy",
                "protocol": "resize48-crop48-bilinear-pillow", "input_px": 48, "n_images": 100,
                "top1_pct": float(right), "top1_low_pct": low, "top1_high_pct": high, "top5_pct": 100.0,
            }  # fmt: skip
            write_predictions(results / "predictions", predictions.table(), row)
            rows += [row, row | {"form": "train", "weights_sha256": f"{weights}-train"}]
            certificates.append(identity | {
                "weights_sha256": f"{weights}-train", "run_id": "reparameterize", "float64_max_relative_error": 1e-15,
                "file_matches_conversion": True, "float32_max_relative_error": 1e-6, "prediction_flips": 0,
                "n_inputs": 16, "train_params": 2, "deploy_params": 1, "train_sha256": f"{weights}-train",
                "deploy_sha256": weights, "passed": True,
            })  # fmt: skip
            epochs = [{"epoch": epoch, "learning_rate": 0.03, "train_loss": 3.0, "train_top1_pct": 10.0,
                       "val_top1_pct": float(right) - 20 / epoch, "images_per_s": 100.0, "elapsed_s": 10.0}
                      for epoch in (1, 2)]  # fmt: skip
            folder = root / "results" / "weights" / "other-images" / model / digest / f"seed{seed}"
            write_rows(folder / "history.csv", "history", epochs)
    write_rows(results / "accuracy.csv", "accuracy", rows)
    write_rows(results / "reparameterization.csv", "reparameterization", certificates)
    add_study(results, root / "results" / "studies", Facts(ROOT / "paper"))


DEVICE = "gtx-1080ti-planted"
DEVICE_RUN, KERNEL_RUN, MEMORY_RUN = (f"20260401T120000Z-{verb}-aaaaaa" for verb in (
    "measure-speed", "measure-kernel-sizes", "measure-memory"))  # fmt: skip
DEVICE_SPEEDS = {
    "RepVGG-A0": 3300.0, "ResNet-18": 2400.0, "RepVGG-A1": 2300.0, "ResNet-34": 1420.0, "VGG-16": 420.0,
    "EfficientNet-B3": 230.0, "EfficientNet-B0": 2600.0, "RepVGG-B1": 680.0, "RepVGG-B1g4": 860.0,
}  # fmt: skip
"""Images/s of the deploy forms at batch 128; batch 256 of RepVGG-A0 gains 2 %, ResNet-34 was disturbed."""


def plant_device(root: Path) -> None:
    """A device like the paper's with raw samples in two groups, kernel sizes of Table 1's shape, and feature maps."""
    folder = root / "results" / "devices" / DEVICE
    speeds = {(model, 128): speed for model, speed in DEVICE_SPEEDS.items()} | {("RepVGG-A0", 256): 3366.0}
    samples = [sample for place, key in enumerate(speeds) for sample in _samples(*key, speeds[key], place)]
    kept = Samples(DEVICE_RUN, DEVICE, tuple(samples))
    kept.write(folder / "speed")
    rows = []
    for model, batch in speeds:
        setting = _setting(model, batch)
        rate = kept.rate(tuple((setting | {"model": model})[name] for name in KEY))
        rows.append(_identity(model) | setting | {
            "weights_sha256": "random", "run_id": DEVICE_RUN, "device": DEVICE, "params": 1, "n_samples": 20,
            "examples_per_s": rate.value, "low_examples_per_s": rate.low, "high_examples_per_s": rate.high,
            "flags": "spread 31 %; process starts differ by 9 %" if model == "ResNet-34" else None,
        })  # fmt: skip
    write_rows(folder / "speed.csv", "speed", rows)
    tflops = {1: 10.0, 3: 38.0, 5: 10.5, 7: 9.3}
    write_rows(folder / "kernel_size.csv", "kernel_size", [
        {"experiment": "planted", "run_id": KERNEL_RUN, "device": DEVICE, "protocol": "interleaved", "n_samples": 20,
         "precision": "fp32", "memory_format": "contiguous", "backend": "eager", "kernel_size": size, "batch_size": 32,
         "channels": 2048, "resolution_px": 56, "time_ms": 50.0, "low_ms": 49.0, "high_ms": 51.5, "tflops": value}
        for size, value in tflops.items()
    ])  # fmt: skip
    maps = {"ResNet-18": (1.0, 2.0, 2.0, 1.0), "RepVGG-A0": (0.5, 0.5, 0.5, 0.5)}
    write_rows(folder / "memory.csv", "memory", [
        _identity(model) | {"run_id": MEMORY_RUN, "form": "deploy", "device": DEVICE, "layer": layer, "batch_size": 1,
                            "input_px": 224, "live_feature_map_mib": value}
        for model, values in maps.items() for layer, value in zip(FIGURE_3, values, strict=True)
    ])  # fmt: skip
    for run in (DEVICE_RUN, KERNEL_RUN, MEMORY_RUN):
        write_json(folder / "runs" / f"{run}.json", {"run_id": run, "commit": "0" * 40})


def _identity(model: str) -> dict[str, Any]:
    return {"experiment": "planted", "model": model, "base_model": model, "width": 1.0, "num_classes": 1000}


def _setting(model: str, batch: int) -> dict[str, Any]:
    return {"form": "deploy", "protocol": "interleaved", "precision": "fp32", "memory_format": "contiguous",
            "backend": "eager", "batch_size": batch, "input_px": require_model(model).input_px}  # fmt: skip


def _samples(model: str, batch: int, speed: float, place: int) -> list[Sample]:
    """20 rounds in two starts of the process. The first half of the networks is one group, the rest another.

    ResNet-18 is in both groups.
    """
    setting, noise = _setting(model, batch), np.random.default_rng(place).normal(0, 0.01, 20)
    groups = ("one", "two") if model == "ResNet-18" else ("one",) if place < 5 else ("two",)
    return [
        Sample(group=group, start=number // 10, round=number, position=place, role="timed", model=model, iterations=10,
               seconds=batch / speed * (1 + noise[number]), **setting)
        for group in groups for number in range(20)
    ]  # fmt: skip
