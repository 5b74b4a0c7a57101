"""The verb `adopt`: take states, weights and rows of another machine into our results.

Everything is checked before anything is copied: digests of finished weights and checkpoints, the identity inside each
weights file against its path, the images they were trained on against ours, and for each measured row that its weights
are there and that its accuracy is that of its predictions. What exists here already is kept. Where the images are not
indexed here, the index comes along. Snakemake then finds nothing left to do but the cheap rules.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.contract import TABLES, read_rows
from repvgg_companion.data.manifest import Manifest, dataset_sha256
from repvgg_companion.errors import CompanionError, counted
from repvgg_companion.files import atomic_path, read_json, sha256_of_file
from repvgg_companion.identity import FORMS, predictions_of
from repvgg_companion.training.job.checkpoint import checkpoint_files
from repvgg_companion.training.job.publish import HISTORY, SEAL, WEIGHTS, is_final, tensors_sha256
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.weights_file import read_header

NOT_CARRIED = ("lock", "holder.json")


@dataclass
class Adoption:
    """What there is to copy, in the order in which Snakemake must see it appear."""

    copies: list[tuple[Path, Path]]
    kept: list[Path]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `adopt` verb."""
    parser.add_argument("folder", help="the other machine's companion folder, or a copy of its results")
    parser.add_argument("--results", default="results", help="where they go")


def run(arguments: argparse.Namespace) -> None:
    """Check everything, then copy; raises CompanionError with nothing copied if a check fails."""
    source = Path(arguments.folder)
    source = source / "results" if (source / "results").is_dir() else source
    if not source.is_dir():
        raise CompanionError(f"{arguments.folder} is not a folder; name the one that came back from the other machine")
    adoption = plan_adoption(source, Path(arguments.results))
    if not adoption.copies and not adoption.kept:
        raise CompanionError(f"{source} holds no states, weights or rows of the companion; name the right folder")
    for here, there in adoption.copies:
        with atomic_path(there) as temporary:
            shutil.copyfile(here, temporary)
    copied = counted(len(adoption.copies), "file")
    print(f"adopted {copied} from {source}, kept {len(adoption.kept)} that are here already")


def plan_adoption(source: Path, target: Path) -> Adoption:
    """What to copy from one results folder to another; raises CompanionError at the first fault."""
    adoption = Adoption([], [])
    digests: dict[tuple[str, ...], dict[str, str]] = {}
    # In the order of the workflow: Snakemake repeats a job whose input is newer than its output.
    for folder in sorted(source.glob("data/*")):
        _add_index(adoption, folder, target / folder.relative_to(source))
    for path in sorted(source.glob("state/*/*/*/*/state.json")):
        _add_state(adoption, path.parent, target / path.parent.relative_to(source), target)
    # Decoded caches name the manifest they belong to, and their reader refuses them where it is another one.
    for path in sorted(source.glob("data/*/cache/*")):
        _add(adoption, path, target / path.relative_to(source))
    folders = sorted(source.glob("weights/*/*/*/*"))
    for folder in folders:
        digests[folder.relative_to(source / "weights").parts] = _check_weights(folder, source)
    for name in ("train.safetensors", "history.csv", "deploy.safetensors"):
        for folder in folders:
            _add(adoption, folder / name, target / folder.relative_to(source) / name)
    for experiment in sorted(path for path in source.iterdir() if path.name not in ("state", "weights", "data")):
        if not (experiment / "runs").is_dir():
            continue
        for path in sorted((experiment / "parts").glob("*.csv")):
            _check_rows(path, experiment, digests)
        for part in ("runs", "speed", "predictions", "parts"):
            for path in sorted(file for file in (experiment / part).rglob("*") if file.is_file()):
                _add(adoption, path, target / path.relative_to(source))
    return adoption


def _add_index(adoption: Adoption, folder: Path, there: Path) -> None:
    """The manifests of images that are not indexed here; raises CompanionError if they are not as described."""
    described = folder / "dataset.json"
    if not described.exists() or (there / "dataset.json").exists():
        return
    manifests = [folder / f"{split}.parquet" for split in ("train", "val") if (folder / f"{split}.parquet").exists()]
    if len(manifests) == 2:
        found = dataset_sha256(*(Manifest.read(path) for path in manifests))
        if found != read_json(described)["dataset_sha256"]:
            raise CompanionError(f"{folder} does not hold the manifests that its dataset.json describes; copy it again")
    for path in (*manifests, described):
        _add(adoption, path, there / path.name)


def _add(adoption: Adoption, here: Path, there: Path) -> None:
    if not here.exists():
        return
    if there.exists():
        adoption.kept.append(there)
    else:
        adoption.copies.append((here, there))


def _add_state(adoption: Adoption, folder: Path, there: Path, target: Path) -> None:
    state, ours = StateFolder(folder), StateFolder(there)
    if state.is_held():
        raise CompanionError(f"{folder} is still being trained; wait until that ends, then copy it again")
    theirs, mine = state.stored(), ours.stored()
    if theirs is None:
        raise CompanionError(f"{folder} has no readable state.json; copy it again")
    training = theirs["training"]
    for results in (target, folder.parents[4]):
        _check_images(training["dataset"], training["dataset_sha256"], folder, results)
    if (folder / SEAL).exists():
        is_final(state)  # raises where the files do not have the digests that were noted when they were finished
    for file in checkpoint_files(folder):
        if sha256_of_file(file.path)[:16] != file.digest:
            raise CompanionError(
                f"{file.path} is damaged; copy it again, or move it out of the folder and adopt the rest"
            )
    if ours.is_held():
        raise CompanionError(f"{there} is being trained here; wait until that ends, then adopt")
    if mine is not None:
        if mine["training"] != training or mine["recipe"] != theirs["recipe"]:
            raise CompanionError(f"{there} holds another training than {folder}; move one of them away")
        if (there / SEAL).exists() or _steps(ours) >= _steps(state):
            adoption.kept.append(there)
            return
        raise CompanionError(
            f"{there} has a training at step {_steps(ours)}, {folder} the same one at step {_steps(state)}; move ours "
            "away to adopt the other"
        )
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in NOT_CARRIED and not path.name.startswith("."):
            adoption.copies.append((path, there / path.name))


def _steps(state: StateFolder) -> int:
    seal = state.folder / SEAL
    if seal.exists():
        return read_json(seal)["steps"]
    return max((file.step for file in checkpoint_files(state.folder)), default=0)


def _check_images(dataset: str, sha256: str, folder: Path, target: Path) -> None:
    path = target / "data" / dataset / "dataset.json"
    if path.exists() and read_json(path)["dataset_sha256"] != sha256:
        raise CompanionError(
            f"{folder} was trained on other images than those of {path.parent}; index the same archives "
            "on both machines"
        )


def _check_weights(folder: Path, source: Path) -> dict[str, str]:
    """The digest of each form's file, after comparing its identity with its path and its state."""
    dataset, model, digest, seed = folder.relative_to(source / "weights").parts
    found = {}
    for form in FORMS:
        path = folder / f"{form}.safetensors"
        if not path.exists():
            continue
        identity, _ = read_header(path)
        named = (identity.dataset, identity.model, identity.training_digest, f"seed{identity.seed}", identity.form)
        if named != (dataset, model, digest, seed, form):
            raise CompanionError(f"{path} holds the weights of another training ({identity.model}); copy it again")
        found[form] = sha256_of_file(path)
    state = source / "state" / folder.relative_to(source / "weights")
    if (state / SEAL).exists():
        # The names in the file's metadata may have been changed since; its tensors may not.
        if "train" in found and tensors_sha256(folder / "train.safetensors") != tensors_sha256(state / WEIGHTS):
            raise CompanionError(f"{folder}/train.safetensors differs from what was trained; copy it again")
        history = folder / "history.csv"
        if history.exists() and sha256_of_file(history) != read_json(state / SEAL)["sha256"][HISTORY]:
            raise CompanionError(f"{history} differs from what was trained; copy it again")
    return found


def _check_rows(path: Path, experiment: Path, digests: dict[tuple[str, ...], dict[str, str]]) -> None:
    """Rows fit the contract, their runs are described, and their weights are among those that came."""
    table = path.stem.partition("-")[0]
    if table not in TABLES:
        raise CompanionError(f"{path} belongs to no table of the results; move it out of the folder")
    for row in read_rows(path, table):
        if "run_id" in row and not (experiment / "runs" / f"{row['run_id']}.json").exists():
            raise CompanionError(f"{path} refers to run {row['run_id']}, whose file is missing; copy runs/ as well")
        if table == "accuracy":
            _check_accuracy(row, path, experiment)
        sha256 = row.get("weights_sha256")
        if sha256 in (None, "random"):
            continue
        place = (row["dataset"], row["model"], row["training_digest"], f"seed{row['seed']}")
        known = {row.get("train_sha256"), row.get("deploy_sha256"), *digests.get(place, {}).values()} - {None}
        if place not in digests or sha256 not in digests[place].values() or not known <= set(digests[place].values()):
            raise CompanionError(
                f"{path} refers to weights of {row['model']} with SHA-256 {sha256[:12]}, which are not in the folder; "
                "copy weights/ as well"
            )


def _check_accuracy(row: dict[str, Any], path: Path, experiment: Path) -> None:
    """The top-1 of a row is the share of its per-image predictions that are right."""
    from repvgg_companion.evaluation.predictions import read_predictions

    name = predictions_of(row)
    predictions = experiment / "predictions" / name
    if not predictions.exists():
        raise CompanionError(f"{path} refers to predictions/{name}, which is missing; copy predictions/ as well")
    correct = read_predictions(predictions).correct
    right = 100 * float(correct.mean())
    if len(correct) != row["n_images"] or abs(right - row["top1_pct"]) > 1e-6:
        raise CompanionError(
            f"{path} says {row['top1_pct']} % of {row['n_images']} images, {predictions.name} {right:.4f} % of "
            f"{len(correct)}; copy both again"
        )
