"""Publish the finished weights from the state folder to the declared outputs. Needs no torch.

Publishing is a copy by rename, which takes about a second and can be repeated: outputs that Snakemake removed, or a
lost .snakemake folder, cost nothing.
"""

import dataclasses
import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, read_json, remove_partial, sha256_of_file, write_json
from repvgg_companion.identity import FACTS_SUFFIX, WeightsIdentity
from repvgg_companion.training.job.checkpoint import checkpoint_files, remove_leftovers
from repvgg_companion.training.job.state import StateFolder

WEIGHTS, HISTORY, SEAL = "final.safetensors", "final-history.csv", "final.json"


def seal(state: StateFolder, facts: dict[str, Any]) -> None:
    """Mark the weights and history in the state folder as final, with their digests; the last write of a training."""
    files = {name: sha256_of_file(state.folder / name) for name in (WEIGHTS, HISTORY)}
    write_json(state.folder / SEAL, {"sha256": files, **facts})


def is_final(state: StateFolder) -> bool:
    """Whether the training is finished; raises CompanionError if its finished files are missing or damaged."""
    path = state.folder / SEAL
    if not path.exists():
        return False
    try:
        digests = read_json(path)["sha256"]
    except CompanionError:
        raise CompanionError(f"{path} is damaged; restore it from a backup, or move {state.folder} away") from None
    for name, digest in digests.items():
        file = state.folder / name
        if not file.exists() or sha256_of_file(file) != digest:
            raise CompanionError(
                f"{file} is missing or damaged; restore it from a backup, or move {state.folder} away to train again"
            )
    return True


def tidy(state: StateFolder) -> None:
    """Close the log of a finished training and remove its checkpoints; may be repeated."""
    state.close_open_attempt("finished")
    remove_leftovers(state.folder)
    for file in checkpoint_files(state.folder):
        file.path.unlink()


def publish(state: StateFolder, identity: WeightsIdentity, weights: str | Path, history: str | Path) -> None:
    """Copy the final files to their declared places by rename, the weights last.

    The published file carries `identity`, since recipe and dataset may have been renamed after the training. Beside it
    stand the `training_facts`.
    """
    identity = noted(identity, state)
    for path in (weights, history):
        remove_partial(path)
    with atomic_path(history) as temporary:
        shutil.copyfile(state.folder / HISTORY, temporary)
    write_json(Path(weights).with_suffix(FACTS_SUFFIX), training_facts(state, identity))
    with atomic_path(weights) as temporary:
        copy_with_metadata(state.folder / WEIGHTS, temporary, identity.metadata())


def training_facts(state: StateFolder, identity: WeightsIdentity) -> dict[str, Any]:
    """What the weights' identity only refers to: the recipe behind the digest, the images, the training code.

    It stands in a file of its own, because the weights of the same training are the same bytes at every commit.
    """
    stored = state.stored() or {}
    starts = [line for line in state.attempts() if line["event"] == "start"]
    return {
        "training_digest": identity.training_digest,
        "recipe_name": identity.recipe,
        "recipe": stored.get("recipe"),
        "training": stored.get("training"),
        "decided": stored.get("decided"),
        "commits": list(dict.fromkeys(line["commit"] for line in starts if "commit" in line)),
        "torch": list(dict.fromkeys(line["torch"] for line in starts if "torch" in line)),
        "attempts": len(starts),
    }


def noted(identity: WeightsIdentity, state: StateFolder) -> WeightsIdentity:
    """The identity with a note on the undecodable images that the training replaced, if any."""
    count = len(state.undecodable())
    if not count:
        return identity
    note = f"{count} undecodable training {'image was' if count == 1 else 'images were'} replaced by the next one"
    return dataclasses.replace(identity, note="; ".join(filter(None, (identity.note, note))))


def copy_with_metadata(source: Path, target: Path, metadata: dict[str, str]) -> None:
    """Copy a safetensors file with other metadata; if it has these already, the copy has the same bytes.

    The format: 8 bytes little-endian length of a JSON header, padded with spaces, then the tensors' bytes, whose
    offsets count from the end of the header.
    """
    with source.open("rb") as reader, target.open("wb") as writer:
        raw = reader.read(struct.unpack("<Q", reader.read(8))[0])
        header = json.loads(raw)
        if header.get("__metadata__") != metadata:
            header["__metadata__"] = metadata
            raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            raw += b" " * (-len(raw) % 8)
        writer.write(struct.pack("<Q", len(raw)) + raw)
        shutil.copyfileobj(reader, writer, 1 << 22)


def tensors_sha256(path: Path) -> str:
    """SHA-256 of a safetensors file without its metadata, so of the tensors' names, places and bytes alone."""
    digest = hashlib.sha256()
    with path.open("rb") as reader:
        header = json.loads(reader.read(struct.unpack("<Q", reader.read(8))[0]))
        header.pop("__metadata__", None)
        digest.update(json.dumps(header, sort_keys=True).encode())
        while block := reader.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
