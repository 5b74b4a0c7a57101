"""Decide whether a deploy file computes the function of its train file.

Three checks on real images: (a) algebra: both forms in float64 give the same logits; (b) file: every tensor read back
from disk equals the float64 conversion rounded once, bit for bit; (c) the float32 error and the changed predictions of
the two files, which are reported and decide nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.identity import FORMS, WeightsIdentity
from repvgg_companion.models.names import require_convertible

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from repvgg_companion.reparameterization.agreement import Agreement

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
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["identity"], values["failures"]
        # Cells are finite numbers, so an infinite error (logits that are not finite) becomes a huge one.
        for name in ("float64_max_relative_error", "float32_max_relative_error"):
            values[name] = min(values[name], 1e300)
        return {
            "experiment": experiment,
            **self.identity.columns(),
            "weights_sha256": self.train_sha256,
            "run_id": run_id,
            **values,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class CheckInputs:
    """The inputs of the comparison: normalised float images [n, 3, px, px], a device, and images at a time."""

    images: "Tensor"
    device: str = "cpu"
    batch_size: int = 8


def certify(train_path: Path, inputs: CheckInputs) -> Certificate:
    """Convert a train file, check the conversion, write `deploy.safetensors` beside it, and certify that file.

    The file is written only after check (a). A deploy file that exists already is never replaced: it is checked against
    the train file. Raises CompanionError if the train file cannot be read, is in deploy form or does not fit its
    network, or if the network has no deploy form.
    """
    import torch

    from repvgg_companion.reparameterization.agreement import MAX_FLOAT64_RELATIVE_ERROR
    from repvgg_companion.reparameterization.convert import convert_model
    from repvgg_companion.weights_file import load_weights, save_weights

    deploy_path = train_path.with_name(DEPLOY_NAME)
    state, identity = load_weights(train_path)
    train_sha256 = sha256_of_file(train_path)
    require_convertible(identity.model)
    if identity.form != "train":
        raise CompanionError(f"{train_path} holds the {identity.form} form; give the train file")
    failures = []

    exact = convert_model(identity.model, state, num_classes=identity.num_classes, width=identity.width)
    algebra, (train_params, deploy_params) = _compare(identity, (state, exact), torch.float64, inputs, train_path)
    if not algebra.is_one_function:
        failures.append(
            f"(a) algebra: the logits of the two forms differ by {algebra.max_relative_error:.3g} of the largest logit "
            f"in float64, more than {MAX_FLOAT64_RELATIVE_ERROR:g}"
        )

    rounded = {key: tensor.to(torch.float32) for key, tensor in exact.items()}
    del exact
    existed = deploy_path.exists()
    if not existed and not failures:
        save_weights(deploy_path, rounded, replace(identity, form="deploy"))
    fault, float32, deploy_sha256 = "", None, "none"
    if deploy_path.exists():
        deploy_sha256 = sha256_of_file(deploy_path)
        deploy_state, fault = _check_file(deploy_path, rounded, identity, existed)
        if fault:
            failures.append(fault)
        float32 = _float32_agreement(identity, (state, deploy_state), inputs)
    return Certificate(
        identity=identity,
        float64_max_relative_error=algebra.max_relative_error,
        file_matches_conversion=deploy_sha256 != "none" and not fault,
        float32_max_relative_error=float32.max_relative_error if float32 else float("inf"),
        prediction_flips=float32.prediction_flips if float32 else len(inputs.images),
        n_inputs=len(inputs.images),
        train_params=train_params,
        deploy_params=deploy_params,
        train_sha256=train_sha256,
        deploy_sha256=deploy_sha256,
        failures=tuple(failures),
    )


States = tuple["Mapping[str, Tensor]", "Mapping[str, Tensor]"]
"""The state dicts of a train form and of a deploy form."""


def _compare(
    identity: WeightsIdentity, states: States, dtype: "torch.dtype", inputs: CheckInputs, what: object
) -> "tuple[Agreement, tuple[int, int]]":
    """How far two forms agree in `dtype`, and the parameters of each; raises CompanionError naming `what`."""
    from repvgg_companion.models.load_form import load_form, parameter_count
    from repvgg_companion.reparameterization.agreement import compare

    names = (what, f"the conversion of {what}")
    train, deploy = (
        load_form(identity, form, state, dtype=dtype, device=inputs.device, what=name)
        for form, state, name in zip(FORMS, states, names, strict=True)
    )
    agreement = compare(train, deploy, inputs.images, batch_size=inputs.batch_size)
    return agreement, (parameter_count(train), parameter_count(deploy))


def _check_file(
    path: Path, rounded: "Mapping[str, Tensor]", identity: WeightsIdentity, existed: bool
) -> "tuple[dict[str, Tensor], str]":
    """Check (b): what a deploy file holds, and in words how it differs from the conversion; empty if it does not.

    A file that this run has just written (not `existed`) is removed if it differs.
    """
    from repvgg_companion.reparameterization.agreement import same_bits
    from repvgg_companion.weights_file import load_weights

    state, found = load_weights(path)
    differing = same_bits(rounded, state)
    if found != replace(identity, form="deploy"):
        differing.append("the identity in its metadata")
    if not differing:
        return state, ""
    if existed:
        way_out = "it existed before and is kept; move it to another folder, so that it is written again"
    else:
        way_out = "it was removed; the disk or the memory is probably faulty"
        path.unlink()
    return state, (
        f"(b) file: {path} is not the conversion of its train file ({len(differing)} differ: "
        f"{', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}); {way_out}"
    )


def _float32_agreement(identity: WeightsIdentity, states: States, inputs: CheckInputs) -> "Agreement | None":
    """Check (c): both files in float32, without TF32; None if the deploy file does not fit the network."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        return _compare(identity, states, torch.float32, inputs, "the train file")[0]
    except CompanionError:
        return None
