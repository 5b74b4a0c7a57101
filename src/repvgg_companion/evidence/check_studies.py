"""The `check-studies` verb: are small studies complete, and do their rows follow from their files?

Layout: `results/studies/NAME/` with `experiment.json`, `provenance.json`, `accuracy.csv` (`judged_form`),
`reparameterization.csv`, `runs/RUN_ID.json`, `predictions/` (one file a row) and `history/MODEL/seedK.csv`. `--add`
makes such a folder from a finished experiment.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.errors import CompanionError, located
from repvgg_companion.evaluation.accuracy import accuracy_columns
from repvgg_companion.evaluation.predictions import read_predictions
from repvgg_companion.evidence.device_folders import visible_folders
from repvgg_companion.evidence.from_studies import Study, judged_form, read_study
from repvgg_companion.files import read_json
from repvgg_companion.identity import predictions_of, training_digest
from repvgg_companion.paper.accuracies import history_path
from repvgg_companion.paper.ours import Row
from repvgg_companion.paper.printed import Facts
from repvgg_companion.training.recipe import Recipe

_AGREES = 1e-9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `check-studies` verb."""
    parser.add_argument("--folder", default="results/studies", help="folder with one folder a study")
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--add", metavar="RESULTS", help="first copy this finished experiment, such as results/NAME")


def run(arguments: argparse.Namespace) -> None:
    """Check every study; prints how many trainings each has and what its pairs say."""
    folder, facts = Path(arguments.folder), Facts(Path(arguments.paper))
    if arguments.add:
        add_study(Path(arguments.add), folder, facts)
    studies = visible_folders(folder)
    for path in studies:
        study = check_study(path, facts)
        print(f"{study.name}: {len(study.rows)} trainings of {len(study.accuracies)} networks are in order")
    if not studies:
        print(f"{folder} holds no study")


def add_study(results: Path, folder: Path, facts: Facts) -> None:
    """Copy what a study consists of from the results of an experiment.

    Raises CompanionError where it exists or is not in order, and then leaves nothing behind.
    """
    target = folder / results.name
    if target.exists():
        raise CompanionError(f"{target} exists already; move it away first")
    every = read_rows(results / "accuracy.csv", "accuracy")
    rows = [row for row in every if row["form"] == judged_form(row["model"])]
    certificates = read_rows(results / "reparameterization.csv", "reparameterization")
    runs = {row["run_id"] for row in (*rows, *certificates)}
    copies = {name: results / name for name in ("experiment.json", "provenance.json")}
    copies |= {f"runs/{name}.json": results / "runs" / f"{name}.json" for name in runs}
    copies |= {f"predictions/{predictions_of(row)}": results / "predictions" / predictions_of(row) for row in rows}
    copies |= {str(history_of(row)): history_path(row | {"_folder": results}) for row in rows}
    if missing := sorted(str(path) for path in copies.values() if not path.is_file()):
        raise CompanionError(f"{missing[0]} is missing; finish the experiment first")
    try:
        for name, path in copies.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
        write_rows(target / "accuracy.csv", "accuracy", rows)
        write_rows(target / "reparameterization.csv", "reparameterization", certificates)
        with located(f"{results} is not added"):
            check_study(target, facts)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def history_of(row: Row) -> Path:
    """Where the history of a row's training lies in its study."""
    return Path("history", row["model"], f"seed{row['seed']}.csv")


def check_study(folder: Path, facts: Facts) -> Study:
    """Check one study; raises CompanionError naming file and row of what is missing or does not follow."""
    study = read_study(folder, facts)
    settings = read_json(folder / "experiment.json")
    _require_trainings(study, settings)
    certificates = {(row["model"], row["seed"]): row for row in study.results.rows("reparameterization")}
    for number, row in enumerate(study.rows, start=1):
        with located(f"{folder}/accuracy.csv: row {number}"):
            _require_recipe(row, settings)
            _require_predictions(folder, row)
            if row["form"] == "deploy":
                _require_certificate(certificates.get((row["model"], row["seed"])), row)
            _require_history(folder, row, settings["recipes"][row["recipe"]]["epochs"])
            if not (folder / "runs" / f"{row['run_id']}.json").is_file():
                raise CompanionError(f"it is of the run {row['run_id']}, whose record is missing in {folder}/runs")
    return study


def _require_trainings(study: Study, settings: dict[str, Any]) -> None:
    """Each network with each seed that the experiment names, and nothing else."""
    planned = {(model, str(seed)) for group in settings["training"] for model in group["models"]
               for seed in group["seeds"]}  # fmt: skip
    found = {(row["model"], row["seed"]) for row in study.rows}
    for model, seed in sorted(planned ^ found):
        what = "has no row of" if (model, seed) in planned else "has a row that experiment.json does not name:"
        raise CompanionError(f"{study.results.folder}/accuracy.csv {what} {model} seed {seed}; a study is complete")


def _require_recipe(row: Row, settings: dict[str, Any]) -> None:
    recipes = settings["recipes"]
    if row["recipe"] not in recipes:
        raise CompanionError(f"the recipe {row['recipe']} is none of experiment.json")
    recipe = Recipe.from_mapping(recipes[row["recipe"]], row["recipe"])
    digest = training_digest(
        model=row["model"], width=row["width"], num_classes=settings["data"]["num_classes"],
        dataset=settings["data"]["dataset"], recipe=recipe.settings(),
    )  # fmt: skip
    if digest != row["training_digest"]:
        raise CompanionError(
            f"{row['model']} has the training digest {row['training_digest']}, the recipe of experiment.json "
            f"gives {digest}; it was trained by another recipe"
        )


def _require_predictions(folder: Path, row: Row) -> None:
    path = folder / "predictions" / predictions_of(row)
    if not path.is_file():
        raise CompanionError(f"{path} is missing; copy it from the evaluation")
    for column, value in accuracy_columns(read_predictions(path)).items():
        if abs(row[column] - value) > _AGREES:
            raise CompanionError(f"{column} is {row[column]}, its predictions give {value}; evaluate again")


def _require_history(folder: Path, row: Row, epochs: int) -> None:
    path = folder / history_of(row)
    if not path.is_file():
        raise CompanionError(f"{path} is missing; copy it from the training")
    if [epoch["epoch"] for epoch in read_rows(path, "history")] != list(range(1, epochs + 1)):
        raise CompanionError(f"{path} does not have the {epochs} epochs of the recipe; copy it again")


def _require_certificate(certificate: Row | None, row: Row) -> None:
    if certificate is None:
        raise CompanionError("reparameterization.csv has no certificate of it; copy it from the experiment")
    if not certificate["passed"]:
        raise CompanionError("its certificate did not pass; convert it again")
    if certificate["deploy_sha256"] != row["weights_sha256"]:
        raise CompanionError("other weights were evaluated than the certificate is about; evaluate again")
