"""Rows of each class to plant among the evidence."""

import csv
from pathlib import Path

from repvgg_companion.contract import write_rows
from repvgg_companion.evidence.sources import LedgerRequest

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
    rows = []
    for model, top1 in (("RepVGG-B0", 60.0), ("RepVGG-B0_plain", 55.0), ("RepVGG-B0_identity-only", 58.0),
                        ("RepVGG-B0_1x1-only", 57.0)):  # fmt: skip
        base, _, variation = model.partition("_")
        rows += [
            {
                "experiment": STUDY, "dataset": "other-images", "model": model, "base_model": base,
                "variation": variation or None, "width": 0.25, "num_classes": 10, "recipe": "study",
                "training_digest": "deadbeef", "seed": str(seed), "weights_sha256": "0" * 64, "run_id": "evaluate",
                "form": "deploy", "protocol": "resize32-crop32-bilinear-pillow", "input_px": 32, "n_images": 1000,
                "top1_pct": top1 + 0.1 * seed, "top1_low_pct": top1 - 2, "top1_high_pct": top1 + 2, "top5_pct": 90.0,
            }
            for seed in range(5)
        ]  # fmt: skip
    write_rows(root / "results" / "studies" / STUDY / "accuracy.csv", "accuracy", rows)
