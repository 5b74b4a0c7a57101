"""The `check-studies` verb: are small studies complete, and do their rows follow from their files?

Layout: `results/studies/NAME/` with `experiment.json`, `provenance.json`, `accuracy.csv` (`judged_form`),
`reparameterization.csv`, `runs/RUN_ID.json`, `predictions/` (one file per row) and `history/MODEL/seedK.csv`. `--add`
makes such a folder from a finished experiment, or adds the further seeds of one to it.
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
from repvgg_companion.files import read_json, sha256_of_file, short_digest, write_json
from repvgg_companion.identity import predictions_of, training_digest
from repvgg_companion.paper.accuracies import history_path
from repvgg_companion.paper.ours import Row
from repvgg_companion.paper.printed import Facts
from repvgg_companion.training.recipe import Recipe

_AGREES = 1e-9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `check-studies` verb."""
    parser.add_argument("--folder", default="results/studies", help="folder with one folder per study")
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument(
        "--add",
        metavar="RESULTS",
        help="first copy this finished experiment, such as results/NAME, or add its further seeds",
    )


def run(arguments: argparse.Namespace) -> None:
    """Check every study; prints how many trainings each has and what its pairs say."""
    folder, facts = Path(arguments.folder), Facts(Path(arguments.paper))
    if arguments.add:
        add_study(Path(arguments.add), folder, facts)
    studies = visible_folders(folder)
    for path in studies:
        study = check_study(path, facts)
        few = "" if study.pairs else "; nothing is compared before three seeds of each network"
        print(f"{study.name}: {len(study.rows)} trainings of {len(study.accuracies)} networks are in order{few}")
    if not studies:
        print(f"{folder} holds no study")


def add_study(results: Path, folder: Path, facts: Facts) -> None:
    """Copy what a study consists of from the results of an experiment; a study that exists gets its further seeds.

    Raises CompanionError if both have a training, differ in more than their seeds, or the new study is not in order;
    the folder is then as it was.
    """
    target, new = folder / results.name, folder / f".{results.name}.new"
    every = read_rows(results / "accuracy.csv", "accuracy")
    rows = [row for row in every if row["form"] == judged_form(row["model"])]
    certificates = read_rows(results / "reparameterization.csv", "reparameterization")
    settings, provenance = read_json(results / "experiment.json"), read_json(results / "provenance.json")
    runs = {row["run_id"] for row in (*rows, *certificates)}
    copies = {f"runs/{name}.json": results / "runs" / f"{name}.json" for name in runs}
    copies |= {f"predictions/{predictions_of(row)}": results / "predictions" / predictions_of(row) for row in rows}
    copies |= {str(history_of(row)): history_path(row | {"_folder": results}) for row in rows}
    if missing := sorted(str(path) for path in copies.values() if not path.is_file()):
        raise CompanionError(f"{missing[0]} is missing; finish the experiment first")
    shutil.rmtree(new, ignore_errors=True)
    try:
        if target.exists():
            shutil.copytree(target, new)
            settings = _with_further_seeds(target, read_json(target / "experiment.json"), settings)
            provenance = _joined(read_json(target / "provenance.json"), provenance)
            rows += read_rows(target / "accuracy.csv", "accuracy")
            certificates += read_rows(target / "reparameterization.csv", "reparameterization")
        for name, path in copies.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new / name)
        write_rows(new / "accuracy.csv", "accuracy", rows)
        write_rows(new / "reparameterization.csv", "reparameterization", certificates)
        tables = {name: sha256_of_file(new / f"{name}.csv") for name in ("accuracy", "reparameterization")}
        digest = {"configuration": settings, "configuration_digest": short_digest(settings), "tables_sha256": tables}
        write_json(new / "experiment.json", settings)
        write_json(new / "provenance.json", provenance | digest)
        with located(f"{results} is not added"):
            check_study(new, facts)
        before = folder / f".{results.name}.before"
        if target.exists():
            target.replace(before)
        new.replace(target)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _with_further_seeds(target: Path, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The settings of a study with the seeds of a further part, which must be the same otherwise."""
    if both := sorted(_trainings(old) & _trainings(new)):
        model, seed = both[0]
        raise CompanionError(f"{target} exists already and has {model} seed {seed}; only further seeds can be added")

    def fixed(settings: dict[str, Any]) -> dict[str, Any]:
        groups = [group | {"seeds": []} for group in settings["training"]]
        images = {name: settings["data"].get(name) for name in ("dataset", "num_classes", "classes")}
        return {
            "recipes": settings["recipes"],
            "evaluation": settings.get("evaluation"),
            "training": groups,
            "data": images,
        }

    if other := [name for name, value in fixed(old).items() if value != fixed(new)[name]]:
        raise CompanionError(f"{target} exists already with other {other[0]}; only further seeds can be added")
    groups = zip(old["training"], new["training"], strict=True)
    return new | {"training": [one | {"seeds": sorted({*one["seeds"], *two["seeds"]})} for one, two in groups]}


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The provenance of two parts: the runs, weights and trainings of both, the rest of the later one."""
    mappings = {name: old.get(name, {}) | new.get(name, {}) for name in ("runs", "weights", "trainings")}
    return new | mappings | {"devices": sorted({*old.get("devices", ()), *new.get("devices", ())})}


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
    planned = _trainings(settings)
    found = {(row["model"], row["seed"]) for row in study.rows}
    for model, seed in sorted(planned ^ found):
        what = "has no row of" if (model, seed) in planned else "has a row that experiment.json does not name:"
        raise CompanionError(f"{study.results.folder}/accuracy.csv {what} {model} seed {seed}; a study is complete")


def _trainings(settings: dict[str, Any]) -> set[tuple[str, str]]:
    """Network and seed of each training."""
    return {
        (model, str(seed)) for group in settings["training"] for model in group["models"] for seed in group["seeds"]
    }


def _require_recipe(row: Row, settings: dict[str, Any]) -> None:
    recipes = settings["recipes"]
    if row["recipe"] not in recipes:
        raise CompanionError(f"experiment.json has no recipe {row['recipe']}")
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
