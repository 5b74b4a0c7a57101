"""Decide whether a deploy file computes the function of its train file.

Three checks on real images: (a) algebra, both forms in float64; (b) file, every tensor read back from disk equals the
float64 conversion rounded once, bit for bit; (c) the float32 error and changed predictions of the two files, reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.names import require_convertible

if TYPE_CHECKING:
    from torch import Tensor

DEPLOY_NAME = "deploy.safetensors"


@dataclass(frozen=True)
class Certificate:
    """The evidence for one train file and its deploy file; `failures` says in words which checks failed."""

    identity: WeightsIdentity
    float64_max_relative_error: float
    file_matches_conversion: bool
    float32_max_relative_error: float
    prediction_flips: int
    n_inputs: int
    train_params: int
    deploy_params: int
    train_sha256: str
    deploy_sha256: str
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the deploy file is proven to hold the conversion of the train file."""
        return not self.failures

    def row(self, experiment: str, run_id: str) -> dict[str, Any]:
        """The row of `reparameterization.csv`."""
        names = ("float64_max_relative_error", "file_matches_conversion", "float32_max_relative_error",
                 "prediction_flips", "n_inputs", "train_params", "deploy_params", "train_sha256", "deploy_sha256",
                 "passed")  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        # An infinite error (logits that are not finite) stands as a huge number, because cells are finite numbers.
        for name in ("float64_max_relative_error", "float32_max_relative_error"):
            values[name] = min(values[name], 1e300)
        return {
            "experiment": experiment,
            **self.identity.columns(),
            "weights_sha256": self.train_sha256,
            "run_id": run_id,
            **values,
        }


def certify(train_path: str | Path, images: "Tensor", *, device: str = "cpu", batch_size: int = 8) -> Certificate:
    """Convert a train file, check the conversion, write `deploy.safetensors` beside it, and certify that file.

    `images` are normalised float images [n, 3, px, px]. The file is written only after check (a). A deploy file that
    exists already is never replaced: it is checked against the train file. Raises CompanionError where the train file
    cannot be read, is no train form, does not fit its network, or the network has no deploy form.
    """
    import torch

    from repvgg_companion.models.load_form import load_form
    from repvgg_companion.reparameterization.agreement import (
        MAX_FLOAT64_RELATIVE_ERROR,
        compare,
        same_bits,
    )
    from repvgg_companion.reparameterization.convert import convert_model
    from repvgg_companion.weights_file import load_weights, save_weights

    train_path = Path(train_path)
    deploy_path = train_path.with_name(DEPLOY_NAME)
    state, identity = load_weights(train_path)
    require_convertible(identity.model)
    if identity.form != "train":
        raise CompanionError(f"{train_path} holds the {identity.form} form; give the train file")
    train_sha256 = sha256_of_file(train_path)
    failures = []

    exact = convert_model(identity.model, state, num_classes=identity.num_classes, width=identity.width)
    options = {"dtype": torch.float64, "device": device}
    train_form = load_form(identity, "train", state, what=train_path, **options)
    deploy_form = load_form(identity, "deploy", exact, what=f"the conversion of {train_path}", **options)
    algebra = compare(train_form, deploy_form, images, batch_size=batch_size)
    train_params = sum(parameter.numel() for parameter in train_form.parameters())
    deploy_params = sum(parameter.numel() for parameter in deploy_form.parameters())
    del train_form, deploy_form
    if not algebra.max_relative_error <= MAX_FLOAT64_RELATIVE_ERROR:
        failures.append(
            f"(a) algebra: the logits of the two forms differ by {algebra.max_relative_error:.3g} of the largest logit "
            f"in float64, more than {MAX_FLOAT64_RELATIVE_ERROR:g}"
        )

    rounded = {key: tensor.to(torch.float32) for key, tensor in exact.items()}
    del exact
    existed = deploy_path.exists()
    if not existed and not failures:
        save_weights(deploy_path, rounded, replace(identity, form="deploy"))
    matches, file_agreement, deploy_sha256 = False, None, "none"
    if deploy_path.exists():
        deploy_sha256 = sha256_of_file(deploy_path)
        deploy_state, deploy_identity = load_weights(deploy_path)
        differing = same_bits(rounded, deploy_state)
        if deploy_identity != replace(identity, form="deploy"):
            differing.append("the identity in its metadata")
        matches = not differing
        if differing:
            if existed:
                way_out = "remove it and run again"
            else:
                way_out = "it was removed again, since the disk or the memory is at fault"
                deploy_path.unlink()
            failures.append(
                f"(b) file: {deploy_path} is not the conversion of {train_path.name} ({len(differing)} differ: "
                f"{', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}); {way_out}"
            )
        file_agreement = _float32_agreement(identity, state, deploy_state, images, device, batch_size)
    return Certificate(
        identity=identity,
        float64_max_relative_error=algebra.max_relative_error,
        file_matches_conversion=matches,
        float32_max_relative_error=file_agreement.max_relative_error if file_agreement else float("inf"),
        prediction_flips=file_agreement.prediction_flips if file_agreement else len(images),
        n_inputs=len(images),
        train_params=train_params,
        deploy_params=deploy_params,
        train_sha256=train_sha256,
        deploy_sha256=deploy_sha256,
        failures=tuple(failures),
    )


def _float32_agreement(
    identity: WeightsIdentity,
    train_state: "Mapping[str, Tensor]",
    deploy_state: "Mapping[str, Tensor]",
    images: "Tensor",
    device: str,
    batch_size: int,
) -> Any:
    """Check (c): both files in float32, without TF32; None where the deploy file does not even fit the network."""
    import torch

    from repvgg_companion.models.load_form import load_form
    from repvgg_companion.reparameterization.agreement import compare

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    options = {"dtype": torch.float32, "device": device}
    try:
        train_form = load_form(identity, "train", train_state, what="the train file", **options)
        deploy_form = load_form(identity, "deploy", deploy_state, what="the deploy file", **options)
    except CompanionError:
        return None
    return compare(train_form, deploy_form, images, batch_size=batch_size)
