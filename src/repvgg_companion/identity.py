"""Names and digests that say which network was trained how and on what. Needs no torch."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import canonical_json, short_digest

MODEL_PATTERN = r"[A-Za-z0-9.-]+(_[A-Za-z0-9-]+)?"
FORMS = ("train", "deploy")
METADATA_KEY = "repvgg_companion"
FACTS_SUFFIX = ".training.json"
"""Suffix of the file beside trained weights that says by which code, recipe and images they were trained."""


def split_model_name(model: str) -> tuple[str, str]:
    """Split `RepVGG-B0_identity-only` into base model and variation; the variation of a plain name is empty.

    Raises CompanionError if it is no such name.
    """
    if not re.fullmatch(MODEL_PATTERN, model):
        raise CompanionError(
            f"{model!r} is not the name of a model; write one such as RepVGG-A0 or RepVGG-B0_identity-only"
        )
    base_model, _, variation = model.partition("_")
    return base_model, variation


def training_digest(  # noqa: PLR0913  # all by name
    *,
    model: str,
    width: float,
    num_classes: int | None,
    dataset: str,
    recipe: Mapping[str, Any],
    backbone: str | None = None,
) -> str:
    """8 hexadecimal digits over everything that determines trained weights, except seed and device.

    `recipe` holds the settings that differ from their defaults, input pipeline included (`Recipe.settings()`), so a
    setting added in a later version changes no digest. `num_classes` is None if the experiment does not state it. The
    dataset counts by its name, because paths are made before its images are indexed; the trainer also compares the
    digest of the manifests with the one in its state. `backbone` is the SHA-256 of the weights that a segmentation
    network starts from, or `random`.
    """
    parts: dict[str, Any] = {"model": model, "width": width, "dataset": dataset, "recipe": dict(recipe)}
    if num_classes is not None:
        parts["num_classes"] = num_classes
    if backbone is not None:
        parts["backbone"] = backbone
    return short_digest(parts)


def predictions_name(  # noqa: PLR0913  # all by name
    *, model: str, recipe: str, digest: str, seed: str, form: str, protocol: str
) -> str:
    """The file name of the predictions per image: what was evaluated, and how."""
    return f"{model}__{recipe}-{digest}__seed{seed}__{form}__{protocol}.parquet"


def predictions_of(row: Mapping[str, Any]) -> str:
    """The file name of the per-image predictions behind a row of accuracy.csv or segmentation.csv."""
    keys = ("model", "recipe", "seed", "form", "protocol")
    return predictions_name(digest=row["training_digest"], **{key: row[key] for key in keys})


@dataclass(frozen=True)
class WeightsIdentity:
    """What a weights file holds; stored as JSON in the metadata of the file itself.

    It holds no time, host or commit, because two runs of the same training must give files with the same SHA-256.
    `dataset_sha256` is empty for weights that were not trained by this companion. `backbone_sha256` is the digest of
    the weights that a segmentation network started from, or `random`; empty for other networks.
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
        """The metadata of a safetensors file: one key only, because the order of several keys is not stable."""
        values = asdict(self)
        if not self.backbone_sha256:  # added later; without it, older files keep their bytes
            del values["backbone_sha256"]
        return {METADATA_KEY: canonical_json(values)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, path: object = "weights") -> "WeightsIdentity":
        """Read the identity back; raises CompanionError if `path` has none, or a damaged one."""
        import json

        text = (metadata or {}).get(METADATA_KEY)
        if text is None:
            raise CompanionError(
                f"{path} has no identity of this companion; convert it first with "
                f"'python -m repvgg_companion weights convert {path} --to companion --output FILE.safetensors'"
            )
        try:
            values = json.loads(text)
            identity = cls(**values | {"width": float(values["width"])})
            whole = isinstance(identity.num_classes, int) and isinstance(identity.input_px, int)
            numbers = {"width", "num_classes", "input_px"}
            if not whole or not all(isinstance(values[key], str) for key in values.keys() - numbers):
                raise TypeError("a value has the wrong type")
            split_model_name(identity.model)
        except (ValueError, TypeError, KeyError, CompanionError) as error:
            raise CompanionError(
                f"the identity in the metadata of {path} is damaged or of a later version ({error}); use an undamaged "
                "copy of the file, or a later version of the companion"
            ) from None
        return identity

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


def weights_folder(results: Path, row: Mapping[str, Any]) -> Path:
    """Where the weights of a row of the folder `results` lie: `weights/DATASET/MODEL/DIGEST/seedK` beside it."""
    places = (str(row[name]) for name in ("dataset", "model", "training_digest"))
    return results.parent.joinpath("weights", *places, f"seed{row['seed']}")
