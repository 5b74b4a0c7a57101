"""Rows of each class to plant among the evidence."""

import csv
from pathlib import Path

import numpy as np

from repvgg_companion.contract import write_rows
from repvgg_companion.evaluation.accuracy import wilson_interval_pct
from repvgg_companion.evaluation.predictions import Predictions, write_predictions
from repvgg_companion.evidence.check_studies import add_study
from repvgg_companion.evidence.sources import LedgerRequest
from repvgg_companion.files import write_json
from repvgg_companion.identity import training_digest
from repvgg_companion.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
SPEED_SOURCE = "results/planted-speed.csv"
REEVALUATION, RETRAINING, STUDY = "Planted re-evaluation", "Planted retraining", "planted-study"


def request_for(root: Path, output: Path) -> LedgerRequest:
    """The request of the verb for the folders below `root`."""
    return LedgerRequest(root / "paper", root / "results" / "devices", root / "results" / "studies", output, None)


def append(path: Path, **cells: str) -> None:
    """Append one row to a CSV file; columns that are not named stay empty."""
    with path.open(encoding="utf-8", newline="") as stream:
        header = next(csv.reader(stream))
    assert set(cells) <= set(header)
    with path.open("a", encoding="utf-8", newline="") as stream:
        csv.DictWriter(stream, header, lineterminator="\n").writerow({name: cells.get(name, "") for name in header})


def plant_everything(root: Path) -> None:
    """A speed table, a re-evaluation, a retraining and a small study, all of the claims C24, C27 and C38."""
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
    add_study(results, root / "results" / "studies")
