"""What a measured row rests on: its run, raw samples, weights, recipe, images and commit, each with its file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json, sha256_of_file
from repvgg_companion.paper.accuracies import history_path
from repvgg_companion.paper.ours import Results, Row, predictions_path
from repvgg_companion.speed.samples import find_run

_NAMING = ("model", "kernel_size", "form", "layer", "dataset", "width", "recipe", "seed", "protocol", "device",
           "precision", "memory_format", "backend", "batch_size", "input_px", "work", "way")  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One sentence of a tree: what a number rests on; `children` say what that in turn rests on."""

    text: str
    children: tuple["Node", ...] = ()

    def lines(self, depth: int = 0) -> Iterator[str]:
        """The tree as indented lines."""
        yield f"{'  ' * depth}{'- ' if depth else ''}{self.text}"
        for child in self.children:
            yield from child.lines(depth + 1)


@dataclass(frozen=True)
class Basis:
    """What a number rests on: a measured row of a table of the contract or, in words, anything else."""

    words: str = ""
    table: str = ""
    row: Row | None = None


def rows_basis(table: str, rows: list[Row] | tuple[Row, ...]) -> list[Basis]:
    """Measured rows of one table."""
    return [Basis(table=table, row=row) for row in rows]


def basis_node(results: Results, basis: Basis) -> Node:
    """A basis with all that it rests on."""
    if basis.row is None:
        return Node(basis.words)
    return raw_node(results, basis.table, basis.row)


def row_number(results: Results, table: str, row: Row) -> int:
    """The place of a row in its file, counted from 1 below the header."""
    mine = [other for other in results.rows(table) if other["_folder"] == row["_folder"]]
    return next(number for number, other in enumerate(mine, start=1) if other is row)


def raw_node(results: Results, table: str, row: Row) -> Node:
    """A measured row with its run, samples, weights, recipe and images."""
    names = ", ".join(_named(key, row[key]) for key in _NAMING if row.get(key) not in (None, ""))
    where = f"{row['_folder'] / f'{table}.csv'}: row {row_number(results, table, row)} ({names})"
    flags = [Node(f"flagged: {row['flags']}")] if row.get("flags") else []
    return Node(where, (*flags, *_parts(table, row)))


def _named(key: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if key in ("width", "seed"):
        return f"{key} {text}"
    if key == "batch_size":
        return f"batch {text}"
    return f"{text} px" if key == "input_px" else f"{text}x{text}" if key == "kernel_size" else text


def _parts(table: str, row: Row) -> Iterator[Node]:
    folder = Path(row["_folder"])
    yield _run_node(folder, row["run_id"])
    if table == "peers":
        yield Node(f"{folder / 'runs' / row['run_id']}.json: the seconds of every way, round by round")
    if table in ("speed", "kernel_size"):
        yield _samples_node(folder, table, row)
    if table in ("accuracy", "segmentation"):
        path = predictions_path(row)
        what = "top-5 classes and margin" if table == "accuracy" else "counts of pixels"
        absent = "" if path.exists() else "; the file is not here"
        yield Node(f"{path}: {what} of each of {row['n_images']} images{absent}")
    if row.get("weights_sha256") == "random":
        yield Node("weights: random, because speed does not depend on their values")
    elif row.get("weights_sha256"):
        yield _weights_node(row)
        yield from images_nodes(row)
    if row.get("recipe"):
        yield _recipe_node(folder, row)


def _run_node(folder: Path, run_id: str) -> Node:
    path = folder / "runs" / f"{run_id}.json"
    if not path.exists():
        return Node(f"run {run_id}: its record {path} is missing")
    facts = read_json(path)
    software = facts.get("environment", {})
    versions = ", ".join(f"{name} {software[name]}" for name in ("torch", "python", "system") if name in software)
    command = " ".join(facts.get("command", []))
    shown = command if len(command) <= 160 else f"{command[:160]} …"
    parts = [f"commit {facts.get('commit', 'unknown')}", versions, f"command: {shown}" if command else ""]
    return Node(f"{path}: {'; '.join(part for part in parts if part)}")


def _samples_node(folder: Path, table: str, row: Row) -> Node:
    try:
        samples = find_run(folder / "speed", row["run_id"])
    except CompanionError as error:
        return Node(f"raw samples: {error}")
    path = f"{folder / 'speed' / samples.device / row['run_id']}.parquet"
    if row["n_samples"] == 0:
        return Node(f"{path}: no samples, because the row was not measured")
    if table == "kernel_size":
        return Node(f"{path}: {row['n_samples']} timed samples")
    try:
        chosen = samples.of(row)
    except CompanionError as error:
        return Node(f"{path}: {error}")
    rate = samples.rate(row).value
    agrees = abs(rate / row["examples_per_s"] - 1) < 1e-6
    words = "whose median gives the row" if agrees else f"whose median gives {rate:g} examples/s, not the row's value"
    starts, groups = ({getattr(sample, name) for sample in chosen} for name in ("start", "group"))
    return Node(
        f"{path}: {len(chosen)} timed samples (columns model, form, precision, backend, memory_format, batch_size) of "
        f"{len(starts)} process starts in {len(groups)} groups, {words}"
    )


def _weights_node(row: Row) -> Node:
    digest = row["weights_sha256"]
    path = history_path(row).with_name(f"{row.get('form') or 'train'}.safetensors")
    kept = tuple(Node(f"{path}: the training, one row per epoch") for path in _histories(row) if path.exists())
    if not path.exists():
        return Node(f"weights: SHA-256 {digest}; the file {path} is not here", kept)
    words = "" if sha256_of_file(path) == digest else ", but the file's digest is another one now"
    return Node(f"{path}: weights, SHA-256 {digest}{words}", kept)


def _histories(row: Row) -> tuple[Path, Path]:
    """The history of a row's training: beside its weights, or in the folder of its study."""
    return history_path(row), Path(row["_folder"]) / "history" / row["model"] / f"seed{row['seed']}.csv"


def images_nodes(row: Row) -> Iterator[Node]:
    """The images of a row: their manifests, or what the provenance beside the row records of them."""
    folder = Path(row["_folder"]).parent / "data" / str(row["dataset"])
    path = folder / "dataset.json"
    if not path.exists():
        yield Node(f"images: dataset {row['dataset']}; its manifest {path} is not here{_recorded(row)}")
        return
    facts = read_json(path)
    manifests = []
    for split in ("train", "val"):
        part = facts.get(split)
        if part is not None:
            where = folder / f"{split}.parquet"
            manifests.append(Node(f"{where}: manifest of {part['n_images']} images, SHA-256 {part['sha256']}"))
    yield Node(f"{path}: key dataset_sha256 is {facts.get('dataset_sha256', 'missing')}", tuple(manifests))


def _recorded(row: Row) -> str:
    """The digest of the images that the provenance beside the row records."""
    path = Path(row["_folder"]) / "provenance.json"
    dataset = read_json(path).get("dataset", {}) if path.exists() else {}
    if dataset.get("dataset") != row["dataset"] or "dataset_sha256" not in dataset:
        return ""
    return f"; {path} records the digest {dataset['dataset_sha256']}"


def _recipe_node(folder: Path, row: Row) -> Node:
    digest = f"training digest {row['training_digest']}" if row.get("training_digest") else "no training digest"
    path = folder / "provenance.json"
    recipes = read_json(path).get("configuration", {}).get("recipes", {}) if path.exists() else {}
    name = row["recipe"]
    where = f"{path}: key configuration.recipes.{name}" if name in recipes else f"recipe {name}"
    return Node(f"{where}, {digest}")
