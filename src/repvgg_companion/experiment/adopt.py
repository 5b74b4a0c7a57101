"""The verb `adopt`: a folder that came back from another machine in, its states, weights and rows in our results.

Everything is checked before anything is copied: digests of finished weights and checkpoints, the identity inside each
weights file against its path, the images they were trained on against ours, and for each measured row that the weights
it speaks of are there. What exists here already is kept. Snakemake then finds nothing left to do but the cheap rules.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.contract import TABLES, read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, read_json, sha256_of_file
from repvgg_companion.identity import FORMS, WeightsIdentity
from repvgg_companion.training.checkpoint import checkpoint_files
from repvgg_companion.training.publish import SEAL, is_final
from repvgg_companion.training.state import StateFolder

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
    """Check everything, then copy; raises CompanionError with nothing copied where a check fails."""
    source = Path(arguments.folder)
    source = source / "results" if (source / "results").is_dir() else source
    if not source.is_dir():
        raise CompanionError(f"{arguments.folder} is no folder; name the one that came back from the other machine")
    adoption = plan_adoption(source, Path(arguments.results))
    if not adoption.copies and not adoption.kept:
        raise CompanionError(f"{source} holds no states, weights or rows of the companion; name the right folder")
    for here, there in adoption.copies:
        with atomic_path(there) as temporary:
            shutil.copyfile(here, temporary)
    print(f"adopted {len(adoption.copies)} files from {source}, kept {len(adoption.kept)} that are here already")


def plan_adoption(source: Path, target: Path) -> Adoption:
    """What to copy from one results folder to another; raises CompanionError on the first thing that does not fit."""
    adoption = Adoption([], [])
    digests: dict[tuple[str, ...], dict[str, str]] = {}
    for path in sorted(source.glob("state/*/*/*/*/state.json")):
        _add_state(adoption, path.parent, target / path.parent.relative_to(source), target)
    # Decoded caches name the manifest they belong to, and their reader refuses them where it is another one. They come
    # first: a cache younger than the rows would measure them again.
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
    training = state.stored()["training"]
    _check_images(training["dataset"], training["dataset_sha256"], folder, target)
    if (folder / SEAL).exists():
        is_final(state)  # raises where the files do not have the digests that were noted when they were finished
    for file in checkpoint_files(folder):
        if sha256_of_file(file.path)[:16] != file.digest:
            raise CompanionError(f"{file.path} is damaged; copy it again from the other machine, or remove it there")
    if ours.stored() is not None:
        if ours.stored()["training"] != training or ours.stored()["recipe"] != state.stored()["recipe"]:
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
        identity = WeightsIdentity.from_metadata(_metadata(path), path)
        expected = (dataset, model, digest, seed, form)
        if (
            identity.dataset,
            identity.model,
            identity.training_digest,
            f"seed{identity.seed}",
            identity.form,
        ) != expected:
            raise CompanionError(f"{path} holds the weights of another training ({identity.model}); copy it again")
        found[form] = sha256_of_file(path)
    seal = source / "state" / folder.relative_to(source / "weights") / SEAL
    if seal.exists() and "train" in found and read_json(seal)["sha256"]["final.safetensors"] != found["train"]:
        raise CompanionError(f"{folder}/train.safetensors differs from what was trained; copy it again")
    return found


def _metadata(path: Path) -> dict[str, str] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as stream:
            return stream.metadata()
    except (SafetensorError, OSError) as error:
        raise CompanionError(f"{path} is not readable as safetensors ({error}); copy it again") from None


def _check_rows(path: Path, experiment: Path, digests: dict[tuple[str, ...], dict[str, str]]) -> None:
    """Rows fit the contract, their runs are described, and the weights they speak of are among those that came."""
    table = path.stem.partition("-")[0]
    if table not in TABLES:
        raise CompanionError(f"{path} belongs to no table of the results; remove it from the folder")
    for row in read_rows(path, table):
        if "run_id" in row and not (experiment / "runs" / f"{row['run_id']}.json").exists():
            raise CompanionError(f"{path} speaks of run {row['run_id']}, whose file is missing; copy runs/ as well")
        sha256 = row.get("weights_sha256")
        if sha256 in (None, "random"):
            continue
        place = (row["dataset"], row["model"], row["training_digest"], f"seed{row['seed']}")
        known = {row.get("train_sha256"), row.get("deploy_sha256"), *digests.get(place, {}).values()} - {None}
        if place not in digests or sha256 not in digests[place].values() or not known <= set(digests[place].values()):
            raise CompanionError(
                f"{path} speaks of weights of {row['model']} with SHA-256 {sha256[:12]}, which are not in the folder; "
                "copy weights/ as well"
            )
