"""What each file in a folder of released weights holds.

The workflow must know model, form and digest of every file before it can name a path, so each file is read once while
the graph is built; what was found is kept in a small JSON file and used again while size and modification time stay.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json, write_json

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


@dataclass(frozen=True)
class ReleasedFile:
    """One file: its path, the network in it, its form, and the recipe and digest under which it is imported."""

    path: str
    model: str
    width: float
    form: str
    recipe: str
    digest: str


def released_files(folder: str | Path, models: tuple[str, ...], dataset: str, memory: str | Path) -> list[ReleasedFile]:
    """Every weights file below `folder`, or those of `models` only; `memory` is the JSON file of earlier findings.

    Raises CompanionError with the reader's one sentence if a file cannot be used, and if nothing is found.
    """
    if not Path(folder).is_dir():
        raise CompanionError(
            f"released.folder is {folder}, which is not a folder; correct the path, put the weights files there, or "
            "name yours with --config 'released={folder: PATH}'"
        )
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in SUFFIXES and path.is_file())
    known: dict[str, Any] = read_json(memory) if Path(memory).exists() else {}
    found, changed = [], False
    for path in paths:
        status = path.stat()
        key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {dataset}"
        if key not in known:
            known[key] = asdict(_read(path, dataset))
            changed = True
        found.append(ReleasedFile(**{**known[key], "path": str(path)}))
    if changed:
        write_json(memory, known)
    if absent := [model for model in models if model not in {file.model for file in found}]:
        raise CompanionError(
            f"released.models names {absent[0]}, but no file in {folder} holds it; see 'weights fetch --help'"
        )
    found = [file for file in found if not models or file.model in models]
    if not found:
        raise CompanionError(
            f"{folder} holds no weights file ({', '.join(SUFFIXES)}); download some, or use 'weights fetch'"
        )
    unique: dict[tuple[str, str], ReleasedFile] = {}  # two copies of one file are one set of weights
    for file in found:
        unique.setdefault((file.digest, file.form), file)
    return list(unique.values())


def _read(path: Path, dataset: str) -> ReleasedFile:
    from repvgg_companion.weights.recognize import recognize
    from repvgg_companion.weights.writing import identity_of

    weights = recognize(path)
    identity = identity_of(weights, dataset)
    return ReleasedFile(
        str(path), identity.model, identity.width, identity.form, identity.recipe, identity.training_digest
    )
