"""The `cards` verb: a model card (README.md) and a config.json beside each set of weights of an experiment.

It reads the rows of the experiment, the manifest, the identities inside the weights files and, for trained ones, the
facts of their training. `config.json` holds every fact for programs; the card is drawn from it alone.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows
from repvgg_companion.data.batches.normalize import MEAN, STD
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol, parse_protocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json, sha256_of_file, write_json, write_text
from repvgg_companion.identity import FACTS_SUFFIX, FORMS, WeightsIdentity
from repvgg_companion.models.names import require_model
from repvgg_companion.results.card_text import card_text
from repvgg_companion.weights_file import read_header, stored_parameters

CONFIG_NAME, CARD_NAME = "config.json", "README.md"
SCORES = {"accuracy": ("top1_pct", "top1_low_pct", "top1_high_pct", "top5_pct"),
          "segmentation": ("mean_iou_pct", "mean_iou_low_pct", "mean_iou_high_pct", "pixel_accuracy_pct")}  # fmt: skip
"""The tables that hold accuracies, and their columns that a card shows: value, interval, second value."""
CERTIFICATE = ("float64_max_relative_error", "file_matches_conversion", "float32_max_relative_error",
               "prediction_flips", "n_inputs", "passed")  # fmt: skip
STRUCTURE = ("family", "layers", "strides", "a", "b", "groups", "squeeze_excitation", "block", "backbone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `cards` verb."""
    parser.add_argument("--weights", nargs="+", required=True, metavar="FOLDER", help="folders of published weights")
    parser.add_argument("--results", required=True, help="folder results/EXPERIMENT")
    parser.add_argument("--val-manifest", required=True, metavar="FILE.parquet", help="the evaluated images")
    parser.add_argument("--configuration", required=True, help="results/EXPERIMENT/experiment.json")


def run(arguments: argparse.Namespace) -> None:
    """Write README.md and config.json into each folder; raises CompanionError if weights or rows are missing."""
    paths = {table: Path(arguments.results, f"{table}.csv") for table in (*SCORES, "reparameterization")}
    rows = {table: read_rows(path, table) for table, path in paths.items() if path.exists()}
    classes = list(Manifest.read(Path(arguments.val_manifest)).class_names)
    configuration = read_json(arguments.configuration)
    for folder in map(Path, arguments.weights):
        facts = _facts(folder, rows, configuration) | {"classes": classes}
        write_json(folder / CONFIG_NAME, facts)
        write_text(folder / CARD_NAME, card_text(facts))


def _facts(folder: Path, rows: dict[str, list[dict[str, Any]]], configuration: dict[str, Any]) -> dict[str, Any]:
    """What is known about the weights in `folder`, as it goes into config.json."""
    files, identity = {}, None
    for form in FORMS:
        path = folder / f"{form}.safetensors"
        if path.exists():
            identity, shapes = read_header(path)
            files[form] = {"file": path.name, "sha256": sha256_of_file(path), "params": stored_parameters(shapes)}
    if identity is None:
        raise CompanionError(f"{folder} holds neither train.safetensors nor deploy.safetensors; name a weights folder")
    digests = {file["sha256"] for file in files.values()}
    scores = [row for table in SCORES for row in rows.get(table, []) if row["weights_sha256"] in digests]
    if not scores:
        raise CompanionError(f"no accuracy of the weights in {folder} is among the results; evaluate them first")
    certificates = [row for row in rows.get("reparameterization", []) if row["train_sha256"] in digests]
    spec = asdict(require_model(identity.model))
    return {
        "model": identity.model,
        "width": identity.width,
        "num_classes": identity.num_classes,
        "structure": {name: spec[name] for name in STRUCTURE if spec[name] not in ("", ())},
        "reason_not_convertible": spec["reason_not_convertible"],
        "decision": spec["decision"],
        "files": files,
        "preprocessing": preprocessing(scores[0]["protocol"]),
        "training": _training(folder, identity, configuration),
        "accuracy": [_score(row) for row in scores],
        "certificate": {name: certificates[0][name] for name in CERTIFICATE} if certificates else None,
        "experiment": configuration["experiment"],
        "runs": sorted({row["run_id"] for row in (*scores, *certificates)}),
    }


def preprocessing(label: str) -> dict[str, Any]:
    """How an image is prepared by a protocol, in words that a program can follow."""
    protocol = parse_protocol(label)
    facts: dict[str, Any] = {"protocol": label, "channels": "RGB", "scale": "0 to 1", "mean": MEAN, "std": STD}
    if isinstance(protocol, EvaluationProtocol):
        return facts | asdict(protocol)
    return facts | {"window_px": protocol.window_px}


def _training(folder: Path, identity: WeightsIdentity, configuration: dict[str, Any]) -> dict[str, Any]:
    """The identity of the training, its settings, and what its first start decided where they leave it open."""
    named = ("model", "width", "num_classes", "form")
    values = {key: value for key, value in asdict(identity).items() if key not in named}
    facts = folder / f"train{FACTS_SUFFIX}"
    decided = read_json(facts).get("decided") if facts.exists() else None
    return values | {"settings": configuration["recipes"].get(identity.recipe, {}), "decided": decided or {}}


def _score(row: dict[str, Any]) -> dict[str, Any]:
    table = next(table for table, columns in SCORES.items() if columns[0] in row)
    return {name: row[name] for name in ("form", "protocol", "n_images", *SCORES[table])}
