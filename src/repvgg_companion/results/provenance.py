"""The `provenance` verb: what the results of an experiment rest on, in one JSON file."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from repvgg_companion.contract import TABLES, read_rows
from repvgg_companion.errors import counted
from repvgg_companion.files import read_json, sha256_of_file, short_digest, write_json
from repvgg_companion.identity import FACTS_SUFFIX, weights_folder
from repvgg_companion.runs import commit, environment

MEASURED = ("reparameterization", "accuracy", "segmentation", "complexity", "speed", "kernel_size", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `provenance` verb."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--results", required=True, help="folder results/EXPERIMENT")
    parser.add_argument("--dataset", required=True, help="dataset.json of the images")
    parser.add_argument("--configuration", required=True, help="results/EXPERIMENT/experiment.json")
    parser.add_argument("--output", required=True)


def provenance(results: Path, dataset: Path, configuration: dict[str, Any], experiment: str) -> dict[str, Any]:
    """Commit, configuration, images, weights, environment, devices and runs behind the tables of `results`."""
    tables, rows = {}, []
    for table in MEASURED:
        path = results / f"{table}.csv"
        if path.exists():
            tables[table] = sha256_of_file(path)
            rows.extend(read_rows(path, table))
    runs = sorted({row["run_id"] for row in rows if row.get("run_id")})
    records = {run: read_json(results / "runs" / f"{run}.json") for run in runs}
    weights = {
        row["weights_sha256"]: {
            key: row.get(key) for key in ("dataset", "model", "width", "recipe", "training_digest", "seed", "form")
        }
        for row in rows
        if row.get("weights_sha256") not in (None, "random")
    }
    for record in records.values():  # how a training differed from the paper's, as its weights file says
        for digest, note in record.get("weights_notes", {}).items():
            if digest in weights:
                weights[digest]["note"] = note
    trainings = {}
    for entry in weights.values():
        path = weights_folder(results, entry) / f"train{FACTS_SUFFIX}"
        if path.exists():  # released weights have none, nor do those of an earlier version
            facts = read_json(path)
            entry["training_commits"] = facts["commits"]
            trainings[entry["training_digest"]] = {key: facts[key] for key in ("recipe_name", "recipe", "training")}
    return {
        "experiment": experiment,
        "commit": commit(),
        "configuration": configuration,
        "configuration_digest": short_digest(configuration),
        "dataset": read_json(dataset),
        "tables_sha256": tables,
        "weights": weights,
        "trainings": trainings,
        "devices": sorted({row["device"] for row in rows if row.get("device")}),
        "environment": environment(),
        "runs": {
            run: {key: record[key] for key in ("commit", "environment", "command") if key in record}
            for run, record in records.items()
        },
        "contract_tables": sorted(TABLES),
    }


def commits_in_words(provenance: dict[str, Any]) -> str:
    """`measured at COMMIT (12 runs) and trained at COMMIT (3 trainings)`; a kept row may be older than the page."""
    measured = Counter(record.get("commit", "unknown") for record in provenance["runs"].values())
    trained = Counter(
        commit
        for digest_and_seed, commits in {
            (entry["training_digest"], entry["seed"]): entry.get("training_commits", ())
            for entry in provenance["weights"].values()
        }.items()
        for commit in dict.fromkeys(commits)
    )
    told = [
        f"{verb} at {', '.join(f'{commit} ({counted(n, noun)})' for commit, n in found.most_common())}"
        for verb, noun, found in (("measured", "run", measured), ("trained", "training", trained))
        if found
    ]
    return " and ".join(told) or "not measured"


def run(arguments: argparse.Namespace) -> None:
    """Write provenance.json."""
    configuration = read_json(arguments.configuration)
    value = provenance(Path(arguments.results), Path(arguments.dataset), configuration, arguments.experiment)
    write_json(arguments.output, value)
