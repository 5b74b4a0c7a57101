"""Write and read checkpoints; a damaged file is passed over for the one before.

A checkpoint is a safetensors file (nothing in it can run code) called `checkpoint-STEP-DIGEST.safetensors`, where
DIGEST is the start of the SHA-256 of its bytes. It is written under a temporary name, flushed, and renamed.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file, sync_folder
from repvgg_companion.weights_file import save_tensors

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{16})\.safetensors")
_FACTS = "repvgg_companion_checkpoint"


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint on disk: after how many optimizer steps it was written, and the digest in its name."""

    path: Path
    step: int
    digest: str


def checkpoint_files(folder: Path) -> list[CheckpointFile]:
    """The checkpoints of a state folder, newest first; half-written files have other names."""
    found = [
        CheckpointFile(path, int(match[1]), match[2])
        for path in folder.glob("checkpoint-*.safetensors")
        if (match := _NAME.fullmatch(path.name))
    ]
    return sorted(found, key=lambda file: (file.step, file.path.stat().st_mtime_ns), reverse=True)


def write_checkpoint(
    folder: Path, step: int, tensors: "dict[str, torch.Tensor]", facts: dict[str, Any], *, keep: int
) -> CheckpointFile:
    """Write a checkpoint after `step` optimizer steps and remove all but the newest `keep`.

    Raises CompanionError if the disk is full; the older checkpoints stay.
    """
    metadata = {_FACTS: json.dumps(facts, sort_keys=True)}
    partial = folder / f".checkpoint-{step:09d}.partial.safetensors"
    try:
        save_tensors(partial, tensors, metadata)
        digest = sha256_of_file(partial)[:16]
        written = CheckpointFile(folder / f"checkpoint-{step:09d}-{digest}.safetensors", step, digest)
        partial.replace(written.path)
        sync_folder(folder)  # before an older one is removed
    finally:
        partial.unlink(missing_ok=True)
    for old in [file for file in checkpoint_files(folder) if file.path != written.path][max(keep, 1) - 1 :]:
        old.path.unlink(missing_ok=True)
    return written


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files of a killed process; only for the holder of the folder."""
    for path in folder.glob(".*.partial*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def read_newest(
    folder: Path, warn: Callable[[str], None]
) -> "tuple[CheckpointFile, dict[str, torch.Tensor], dict[str, Any]] | None":
    """The newest undamaged checkpoint, its tensors (on the CPU) and facts; None if there is no checkpoint.

    Calls `warn` with a sentence for each damaged one. Raises CompanionError if all are damaged, since a backup may have
    them.
    """
    files = checkpoint_files(folder)
    for file in files:
        try:
            if sha256_of_file(file.path)[:16] != file.digest:
                raise ValueError("its bytes do not match the digest in its name")
            return file, *_read(file.path)
        except (OSError, ValueError) as error:
            warn(f"checkpoint {file.path} is damaged ({error}); the one before it is used")
    if files:
        raise CompanionError(
            f"every checkpoint in {folder} is damaged; restore one from a backup, or move the folder away "
            "to start from scratch"
        )
    return None


def _read(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            facts = json.loads((stream.metadata() or {})[_FACTS])
            return {name: stream.get_tensor(name) for name in stream.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"not readable as a checkpoint: {error}") from None
