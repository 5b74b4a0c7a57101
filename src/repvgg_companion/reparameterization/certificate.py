"""In: train files. Out: a deploy file beside each, and its certificate as a row of `reparameterization.csv`.

Three checks on real images: (a) algebra, both forms in float64; (b) file, every tensor read back from disk equals the
float64 conversion rounded once, bit for bit; (c) the float32 error and changed predictions of the two files, reported.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.names import require_convertible
from repvgg_companion.runs import new_run_id, write_run

if TYPE_CHECKING:
    from torch import Tensor

DEPLOY_NAME = "deploy.safetensors"
N_INPUTS = 64


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

    from repvgg_companion.reparameterization.checks import (
        MAX_FLOAT64_RELATIVE_ERROR,
        compare,
        load_form,
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

    from repvgg_companion.reparameterization.checks import compare, load_form

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    options = {"dtype": torch.float32, "device": device}
    try:
        train_form = load_form(identity, "train", train_state, what="the train file", **options)
        deploy_form = load_form(identity, "deploy", deploy_state, what="the deploy file", **options)
    except CompanionError:
        return None
    return compare(train_form, deploy_form, images, batch_size=batch_size)


def sample_images(manifest_path: str | Path, protocol_label: str, n_inputs: int) -> "Tensor":
    """Normalised float32 images [n, 3, px, px], evenly spread over the classes of a validation manifest."""
    import numpy
    import torch

    from repvgg_companion.data.evaluation_input import EvaluationProtocol, evaluation_batches
    from repvgg_companion.data.manifest import Manifest
    from repvgg_companion.data.normalize import normalize
    from repvgg_companion.data.protocols import SlidingProtocol, parse_protocol

    manifest = Manifest.read(manifest_path)
    if len(manifest) == 0:
        raise CompanionError(f"{manifest_path} lists no images; the certificate needs real images")
    # A manifest is sorted by label, so even steps through it are an even spread over the classes.
    chosen = numpy.unique(numpy.linspace(0, len(manifest) - 1, min(n_inputs, len(manifest))).round().astype(int))
    protocol = parse_protocol(protocol_label)
    if isinstance(protocol, SlidingProtocol):  # one window each, that in the middle of the image
        protocol = EvaluationProtocol(None, protocol.window_px)
    batches = evaluation_batches(manifest, protocol, batch_size=16, indices=chosen)
    return torch.cat([normalize(images, device="cpu") for images, _ in batches])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb `reparameterize`."""
    parser.add_argument("--experiment", required=True, help="name of the experiment, for the rows")
    parser.add_argument("--weights", nargs="+", required=True, metavar="TRAIN.safetensors",
                        help="train files; deploy.safetensors is written beside each")  # fmt: skip
    parser.add_argument("--val-manifest", required=True, metavar="FILE.parquet", help="where the real images come from")
    parser.add_argument("--protocol", required=True, help="such as resize256-crop224-bilinear-pillow")
    parser.add_argument("--output", required=True, metavar="FILE.csv")
    parser.add_argument("--runs", required=True, metavar="FOLDER", help="where RUN_ID.json goes")
    parser.add_argument("--images", type=int, default=N_INPUTS, help=f"how many images (default {N_INPUTS})")
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time (default 8; less for less memory)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def run(arguments: argparse.Namespace) -> None:
    """Certify every file, write the rows of all, then raise CompanionError if any failed."""
    from repvgg_companion.progress import Progress
    from repvgg_companion.reparameterization.checks import require_device

    paths = [Path(name) for name in arguments.weights]
    if len({path.resolve().parent for path in paths}) != len(paths):
        raise CompanionError("two files of --weights lie in one folder, but each gets its own deploy.safetensors there")
    if min(arguments.images, arguments.batch_size) < 1:
        raise CompanionError("--images and --batch-size must be at least 1")
    device = require_device(arguments.device)
    images = sample_images(arguments.val_manifest, arguments.protocol, arguments.images)
    run_id = new_run_id("reparameterize")
    rows, failures = [], []
    with Progress("converting", total=len(paths), unit="files") as progress:
        for path in paths:
            certificate = certify(path, images, device=device, batch_size=arguments.batch_size)
            rows.append(certificate.row(arguments.experiment, run_id))
            failures += [f"{path}: check {failure}" for failure in certificate.failures]
            progress.advance()
    write_run(
        arguments.runs,
        run_id,
        weights=[str(path) for path in paths],
        protocol=arguments.protocol,
        flags={"device": device, "precision": "fp32", "tf32": False, "n_inputs": len(images)},
    )
    write_rows(arguments.output, "reparameterization", rows)
    if failures:
        raise CompanionError(f"{len(failures)} checks failed: {'; '.join(failures)}")
