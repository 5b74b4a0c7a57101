"""Synthetic result tables in the contract's form: what a whole ImageNet experiment, or a demo, would leave behind.

The ImageNet results are the paper's printed numbers, so every claim that holds in print must come out reproduced; a
test then plants a wrong value and looks which claims turn.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from repvgg_companion.contract import TABLES, read_rows, write_rows
from repvgg_companion.identity import predictions_name, split_model_name
from repvgg_companion.models.names import MODELS, REPVGG_MODELS
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.printed import Facts

PAPER = Path(__file__).parents[2] / "paper"
IMAGES = 50_000
PROTOCOL = "resize256-crop224-bilinear-pillow"
CPU = "cpu-intel-family6-model143-avx512-2cores"
RUN = "20260301T120000Z-measure-speed-aaaaaa"


def network(model: str, *, dataset: str | None = "imagenet", width: float = 1.0, classes: int | None = None) -> dict:
    """The identity columns of a row."""
    base, variation = split_model_name(model)
    spec = MODELS.get(model)
    return {
        "experiment": "synthetic",
        "dataset": dataset,
        "model": model,
        "base_model": base,
        "variation": variation,
        "width": width,
        "num_classes": classes or (spec.num_classes if spec else 1000),
    }


def accuracy_row(model: str, top1: float, *, recipe: str, digest: str, seed: str, **more: Any) -> dict:
    """One row of accuracy.csv."""
    spec = MODELS[model]
    return {
        **network(model),
        "recipe": recipe,
        "training_digest": digest,
        "seed": seed,
        "weights_sha256": "0" * 64,
        "run_id": "evaluate",
        "form": "deploy" if spec.convertible else "train",
        "protocol": PROTOCOL if spec.test_px == 224 else f"resize{spec.test_px}-crop{spec.test_px}-bilinear-pillow",
        "input_px": spec.test_px,
        "n_images": IMAGES,
        "top1_pct": top1,
        "top1_low_pct": top1 - 0.35,
        "top1_high_pct": min(top1 + 0.35, 100.0),
        "top5_pct": max(95.0, top1),
        **more,
    }


def speed_row(model: str, form: str, speed: float, *, noise: float = 0.002, **more: Any) -> dict:
    """One row of speed.csv on the paper's protocol."""
    return {
        **network(model, dataset=None),
        "recipe": None,
        "training_digest": None,
        "seed": None,
        "weights_sha256": "random",
        "run_id": RUN,
        "form": form,
        "device": "gtx-1080ti",
        "protocol": "paper",
        "precision": "fp32",
        "memory_format": "contiguous",
        "backend": "eager",
        "batch_size": 16 if model.startswith("PSPNet") else 128,
        "input_px": MODELS[model].input_px,
        "params": 1,
        "examples_per_s": speed,
        "low_examples_per_s": speed * (1 - noise),
        "high_examples_per_s": speed * (1 + noise),
        "n_samples": 50,
        "peak_memory_mib": None,
        "roofline_share": None,
        "flags": None,
        **more,
    }


def predictions_of(row: dict[str, Any]) -> np.ndarray:
    """Per image whether it is right: exactly the row's accuracy, the images shared between networks.

    The easy images are those that every network gets right; where two networks differ, they differ on few images.
    """
    n = row["n_images"]
    correct = np.zeros(n, dtype=bool)
    correct[: round(row["top1_pct"] / 100 * n)] = True
    return correct


def write_predictions(folder: Path, row: dict[str, Any], correct: np.ndarray | None = None) -> None:
    """The Parquet file of the `evaluate` verb for one row."""
    import pyarrow
    from pyarrow import parquet

    correct = predictions_of(row) if correct is None else correct
    n = len(correct)
    labels = np.arange(n) % row["num_classes"]
    first = np.where(correct, labels, (labels + 1) % row["num_classes"])
    top = np.stack([first, *((first + shift) % row["num_classes"] for shift in (2, 3, 4, 5))], axis=1)
    name = predictions_name(
        model=row["model"], recipe=row["recipe"], digest=row["training_digest"], seed=row["seed"], form=row["form"],
        protocol=row["protocol"],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(
        {
            "index": pyarrow.array(np.arange(n), pyarrow.int32()),
            "label": pyarrow.array(labels, pyarrow.int32()),
            "top5": pyarrow.array(top.tolist() if n < 5000 else list(top), pyarrow.list_(pyarrow.int32())),
            "margin": pyarrow.array(np.ones(n), pyarrow.float32()),
        }
    )
    parquet.write_table(table, folder / name)


def printed_accuracies(facts: Facts) -> list[tuple[str, str, float]]:
    """Model, recipe and printed top-1 of Tables 4 to 7."""
    found = []
    for table in ("table4", "table5", "table6", "table7"):
        for row in facts.table(table):
            entry = (row["model"], f"{row['epochs']}-epochs", row["top1_pct"])
            if entry not in found:
                found.append(entry)
    return found


def printed_speeds(facts: Facts) -> list[tuple[str, str, float]]:
    """Model, form and printed speed of Tables 4, 5, 6 and 8."""
    found = []
    for model in MODELS:
        for form in ("deploy", "train"):
            try:
                value = facts.printed(Quantity("speed", model, (form,)))
            except NotAvailable:
                continue
            found.append((model, form, value))
    return found


def write_imagenet(folder: Path, facts: Facts, *, seeds: int = 3) -> Path:
    """Results of a whole ImageNet experiment that met every printed number, with `seeds` trainings a model."""
    rows = []
    for model, recipe, top1 in printed_accuracies(facts):
        digest = "1200aaaa" if recipe == "120-epochs" else "2000aaaa"
        for seed in range(seeds):
            # Seeds scatter by 0.04 points around the print and keep its mean.
            value = round((top1 + 0.04 * (seed - (seeds - 1) / 2)) * IMAGES / 100) * 100 / IMAGES
            rows.append(accuracy_row(model, value, recipe=recipe, digest=digest, seed=str(seed)))
    write_rows(folder / "accuracy.csv", "accuracy", rows)
    write_rows(folder / "speed.csv", "speed", [speed_row(*entry, noise=1e-4) for entry in printed_speeds(facts)])
    kernels = [
        {
            "experiment": "synthetic", "run_id": RUN, "device": "gtx-1080ti", "protocol": "paper", "precision": "fp32",
            "memory_format": "contiguous", "backend": "eager", "kernel_size": fact["kernel_size"], "batch_size": 32,
            "channels": 2048, "resolution_px": 56, "time_ms": fact["time_ms"], "low_ms": fact["time_ms"] * 0.99,
            "high_ms": fact["time_ms"] * 1.01, "tflops": 2 * fact["flops_b"] / fact["time_ms"], "n_samples": 20,
        }
        for fact in facts.table("table1")
    ]  # fmt: skip
    write_rows(folder / "kernel_size.csv", "kernel_size", kernels)
    return folder


def write_demo(folder: Path, facts: Facts) -> Path:
    """Results of a demo run: digits at a quarter of the width, speeds of the full networks on a CPU, histories."""
    rows, speeds, certificates = [], [], []
    accuracies = {model: 82.0 + 15 * index / len(REPVGG_MODELS) for index, model in enumerate(REPVGG_MODELS)}
    accuracies |= {"RepVGG-B0_plain": 78.0, "RepVGG-B0_identity-only": 85.2, "RepVGG-B0_1x1-only": 81.1}
    for model, top1 in accuracies.items():
        count = 3 if model.startswith("RepVGG-B0") else 1
        for seed in range(count):
            correct = round((top1 + 1.2 * seed) * 2.97)
            more = {
                **network(model, dataset="demo-digits", width=0.25, classes=10), "n_images": 297, "input_px": 32,
                "protocol": "resize32-crop32-bilinear-pillow", "top1_pct": 100 * correct / 297,
                "top1_low_pct": 100 * correct / 297 - 3, "top1_high_pct": min(100.0, 100 * correct / 297 + 3),
                "top5_pct": max(95.0, 100 * correct / 297),
            }  # fmt: skip
            row = accuracy_row(model, 0, recipe="demo-5-epochs", digest="deadbeef", seed=str(seed)) | more
            rows.append(row)
            write_predictions(folder / "predictions", row)
            _write_history(folder, row)
        certificates.append(
            {
                **{key: rows[-1][key] for key in (*network(model), "recipe", "training_digest", "seed")},
                "weights_sha256": "0" * 64, "run_id": "reparameterize", "float64_max_relative_error": 1e-15,
                "file_matches_conversion": True, "float32_max_relative_error": 1e-6, "prediction_flips": 0,
                "n_inputs": 297, "train_params": 2, "deploy_params": 1, "train_sha256": "0", "deploy_sha256": "1",
                "passed": True,
            }
        )  # fmt: skip
    on_cpu = {"device": CPU, "protocol": "interleaved", "batch_size": 1, "n_samples": 20,
              "memory_format": "channels_last"}  # fmt: skip
    for model, form, value in printed_speeds(facts):
        if form == "deploy" and (model.startswith("RepVGG") or model in ("ResNet-18", "ResNet-50")):
            speeds.append(speed_row(model, form, value / 30, noise=0.03, **on_cpu))
            speeds.append(speed_row(model, "train", value / 50, noise=0.03, **on_cpu))
    for model, value in (("RepVGG-B2g2", 530), ("RepVGG-B3g2", 410), ("RepVGG-D2se", 120)):
        speeds.append(speed_row(model, "deploy", value / 30, noise=0.03, **on_cpu))
    write_rows(folder / "accuracy.csv", "accuracy", rows)
    write_rows(folder / "speed.csv", "speed", speeds)
    write_rows(folder / "reparameterization.csv", "reparameterization", certificates)
    kernels = [
        {
            "experiment": "synthetic", "run_id": RUN, "device": CPU, "protocol": "interleaved",
            "precision": "fp32", "memory_format": "channels_last", "backend": "eager", "kernel_size": size,
            "batch_size": 4, "channels": 256, "resolution_px": 56, "time_ms": time, "low_ms": time * 0.95,
            "high_ms": time * 1.06, "tflops": 2 * 4 * 256**2 * 56**2 * size**2 / time / 1e9, "n_samples": 20,
        }
        for size, time in ((1, 14), (3, 60), (5, 310), (7, 640))
    ]  # fmt: skip
    write_rows(folder / "kernel_size.csv", "kernel_size", kernels)
    write_rows(folder / "memory.csv", "memory", memory_rows())
    return folder


def _write_history(folder: Path, row: dict[str, Any]) -> None:
    place = folder.parent / "weights" / row["dataset"] / row["model"] / row["training_digest"] / f"seed{row['seed']}"
    epochs = [
        {
            "epoch": epoch, "learning_rate": 0.05 * (1 - epoch / 6), "train_loss": 2.2 * 0.55**epoch,
            "train_top1_pct": 90.0, "val_top1_pct": row["top1_pct"] * (1 - 0.5**epoch) / (1 - 0.5**5),
            "images_per_s": 900.0, "elapsed_s": 1.6 * epoch,
        }
        for epoch in range(1, 6)
    ]  # fmt: skip
    write_rows(place / "history.csv", "history", epochs)


def plant(folder: Path, table: str, change: dict[str, Any], **where: Any) -> None:
    """Change the rows of a table that match `where`, and move bounds that the new values would cross.

    Fails where no row matches.
    """
    rows = read_rows(folder / f"{table}.csv", table)
    chosen = [row for row in rows if all(row[key] == value for key, value in where.items())]
    assert chosen, f"no row of {table} has {json.dumps(where)}"
    for row in chosen:
        row |= change
        for names in TABLES[table].ascending:
            for name in set(names) - set(change):
                fixed = [row[other] for other in names[names.index(name) + 1 :] if other in change]
                row[name] = min([row[name], *fixed]) if row[name] is not None else None
                fixed = [row[other] for other in names[: names.index(name)] if other in change]
                row[name] = max([row[name], *fixed]) if row[name] is not None else None
    write_rows(folder / f"{table}.csv", table, rows)


def memory_rows() -> list[dict[str, Any]]:
    """memory.csv of Figure 3: a residual and a plain network, the four points and the whole."""
    from repvgg_companion.speed.measure_memory import FIGURE_3, WHOLE

    rows = []
    for model, form, units, whole in (
        ("ResNet-18", "train", (1, 2, 2, 1), 61.0), ("ResNet-18", "deploy", (1, 2, 2, 1), 58.0),
        ("RepVGG-A0", "train", (), 52.0), ("RepVGG-A0", "deploy", (1, 1, 1, 1), 40.0),
    ):  # fmt: skip
        shared = {**network(model, dataset=None), "run_id": RUN, "form": form, "device": CPU,
                  "batch_size": 1, "input_px": 224}  # fmt: skip
        rows += [shared | {"layer": name, "live_feature_map_mib": 0.77 * unit} for name, unit in zip(FIGURE_3, units)]
        rows.append(shared | {"layer": WHOLE, "live_feature_map_mib": 3.1, "peak_mib": whole})
    return rows
