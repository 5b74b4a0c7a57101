"""The verb `reparameterize`: write a deploy file beside each train file, and a row with its certificate."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.reparameterization.certificate import CheckInputs, certify
from repvgg_companion.runs import new_run_id, write_run
from repvgg_companion.settings import request_of

if TYPE_CHECKING:
    from torch import Tensor

N_INPUTS = 64


@dataclass(frozen=True)
class ReparameterizeRequest:
    """The request of the verb: train files, and the images, device and folders of their certificates.

    `n_images` are taken from the manifest and processed `batch_size` at a time.
    """

    experiment: str
    weights: tuple[Path, ...]
    val_manifest: Path
    protocol: str
    output: Path
    runs: Path
    n_images: int
    batch_size: int
    device: str

    def __post_init__(self) -> None:
        if len({path.resolve().parent for path in self.weights}) != len(self.weights):
            raise CompanionError(
                "two files of --weights are in one folder, but each gets its own deploy.safetensors beside it; convert "
                "them from different folders"
            )
        if min(self.n_images, self.batch_size) < 1:
            raise CompanionError("--images and --batch-size must be at least 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb `reparameterize`."""
    parser.add_argument("--experiment", required=True, help="name of the experiment, for the rows")
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        required=True,
        metavar="TRAIN.safetensors",
        help="train files; deploy.safetensors is written beside each",
    )
    parser.add_argument(
        "--val-manifest", type=Path, required=True, metavar="FILE.parquet", help="where the real images come from"
    )
    parser.add_argument("--protocol", required=True, help="such as resize256-crop224-bilinear-pillow")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.csv")
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="where RUN_ID.json is written")
    parser.add_argument(
        "--images", dest="n_images", type=int, default=N_INPUTS, help=f"number of images (default {N_INPUTS})"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time (default 8; fewer use less)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def run(arguments: argparse.Namespace) -> None:
    """Certify every file and write the rows of all; raises CompanionError at the end if a check failed."""
    from repvgg_companion.machine.device import choose_device
    from repvgg_companion.progress import Progress

    request = request_of(ReparameterizeRequest, arguments)
    device = choose_device(request.device)
    images = sample_images(request.val_manifest, request.protocol, request.n_images)
    inputs = CheckInputs(images, device, request.batch_size)
    run_id = new_run_id("reparameterize")
    rows, failures = [], []
    with Progress("converting", total=len(request.weights), unit="files") as progress:
        for path in request.weights:
            certificate = certify(path, inputs)
            rows.append(certificate.row(request.experiment, run_id))
            failures += [f"{path}: check {failure}" for failure in certificate.failures]
            progress.advance()
    write_run(
        request.runs,
        run_id,
        weights=[str(path) for path in request.weights],
        protocol=request.protocol,
        flags={"device": device, "precision": "fp32", "tf32": False, "n_inputs": len(images)},
    )
    write_rows(request.output, "reparameterization", rows)
    if failures:
        raise CompanionError(f"{len(failures)} checks failed: {'; '.join(failures)}")


def sample_images(manifest_path: str | Path, protocol_label: str, n_inputs: int) -> "Tensor":
    """Normalised float32 images [n, 3, px, px], evenly spread over the classes of a validation manifest."""
    import numpy
    import torch

    from repvgg_companion.data.batches.evaluation_input import evaluation_batches
    from repvgg_companion.data.batches.normalize import normalize
    from repvgg_companion.data.manifest import Manifest
    from repvgg_companion.data.protocols import EvaluationProtocol, SlidingProtocol, parse_protocol

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
