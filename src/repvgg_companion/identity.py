"""Names and digests: which network, trained how, on what. Needs no torch."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import canonical_json, short_digest

MODEL_PATTERN = r"[A-Za-z0-9.-]+(_[A-Za-z0-9-]+)?"
FORMS = ("train", "deploy")


def split_model_name(model: str) -> tuple[str, str]:
    """Split `RepVGG-B0_identity-only` into base model and variation; the variation of a plain name is empty.

    Raises CompanionError where the name does not fit the pattern.
    """
    if not re.fullmatch(MODEL_PATTERN, model):
        raise CompanionError(f"model name {model!r} does not fit the pattern {MODEL_PATTERN}")
    base_model, _, variation = model.partition("_")
    return base_model, variation


def training_digest(
    *,
    model: str,
    width: float,
    num_classes: int | None,
    dataset: str,
    recipe: Mapping[str, Any],
    backbone: str | None = None,
) -> str:
    """8 hexadecimal digits over all that determines trained weights except seed and device.

    `recipe` holds the settings that differ from a field's behaviour-preserving default, the input pipeline among them
    (`Recipe.settings()`), so that a field added in a later version orphans no weights. `num_classes` is left out where
    the experiment does not state it. A dataset counts by its name, for paths are made before its images are indexed;
    the trainer compares the digest of their manifests with the one in its state in every case. `backbone` is the
    SHA-256 of the weights that a segmentation network starts from, or `random`.
    """
    parts: dict[str, Any] = {"model": model, "width": width, "dataset": dataset, "recipe": dict(recipe)}
    if num_classes is not None:
        parts["num_classes"] = num_classes
    if backbone is not None:
        parts["backbone"] = backbone
    return short_digest(parts)


def predictions_name(*, model: str, recipe: str, digest: str, seed: str, form: str, protocol: str) -> str:
    """The file name of per-image predictions; it says what was evaluated and how."""
    return f"{model}__{recipe}-{digest}__seed{seed}__{form}__{protocol}.parquet"


def predictions_of(row: Mapping[str, Any]) -> str:
    """The file name of the per-image predictions behind a row of accuracy.csv or segmentation.csv."""
    keys = ("model", "recipe", "seed", "form", "protocol")
    return predictions_name(digest=row["training_digest"], **{key: row[key] for key in keys})


@dataclass(frozen=True)
class WeightsIdentity:
    """What a weights file holds; stored as one JSON text in the file's own metadata, so that it travels with it.

    It names nothing that differs between two runs of the same training (no time, no host, no commit), because two such
    runs must give files with the same SHA-256. `backbone_sha256` is the digest of the weights that a segmentation
    network started from, or `random`; empty for other networks.
    """

    dataset: str
    dataset_sha256: str
    model: str
    width: float
    num_classes: int
    recipe: str
    training_digest: str
    seed: str
    input_px: int
    form: str = "train"
    note: str = ""
    backbone_sha256: str = ""

    def metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file: a single key, since the order of several is not stable."""
        values = asdict(self)
        if not self.backbone_sha256:  # added later: files of networks without one keep their bytes
            del values["backbone_sha256"]
        return {"repvgg_companion": canonical_json(values)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, path: object = "weights") -> "WeightsIdentity":
        """Read the identity back; raises CompanionError where `path` was not written by this package."""
        import json

        text = (metadata or {}).get("repvgg_companion")
        if text is None:
            raise CompanionError(
                f"{path} carries no identity of this companion; import it with "
                "'python -m repvgg_companion weights convert'"
            )
        values = json.loads(text)
        values["width"] = float(values["width"])
        return cls(**values)

    def columns(self) -> dict[str, Any]:
        """The identity columns of the results contract, without experiment, weights_sha256 and run_id."""
        base_model, variation = split_model_name(self.model)
        return {
            "dataset": self.dataset,
            "model": self.model,
            "base_model": base_model,
            "variation": variation,
            "width": self.width,
            "num_classes": self.num_classes,
            "recipe": self.recipe,
            "training_digest": self.training_digest,
            "seed": self.seed,
        }
