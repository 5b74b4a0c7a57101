"""The verb `weights`: inspect what files hold, convert them to any layout, fetch what timm publishes."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.errors import CompanionError
from repvgg_companion.settings import request_of

if TYPE_CHECKING:
    from torch import Tensor

    from repvgg_companion.identity import WeightsIdentity
    from repvgg_companion.weights.recognize import RecognizedWeights


@dataclass(frozen=True)
class ConvertRequest:
    """The request of `weights convert`: the files, the layout, and one file or a folder to write to.

    `model` is the network that is expected, if any; `prefix` the front of the keys to read, empty to find it.
    """

    files: tuple[Path, ...]
    to: str
    model: str | None
    prefix: str
    output: Path | None
    weights_folder: Path | None
    dataset: str

    def __post_init__(self) -> None:
        if (self.output is None) == (self.weights_folder is None):
            raise CompanionError("give either --output FILE or --weights-folder FOLDER")
        if self.weights_folder is not None and self.to != "companion":
            raise CompanionError("--weights-folder goes with --to companion; give --output FILE for another layout")
        if self.output is not None and len(self.files) > 1:
            raise CompanionError("--output names one file; convert one file at a time, or give --weights-folder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands of the verb `weights`."""
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prefix_help = "prefix of the keys of the RepVGG inside a larger model, such as model.backbone."

    model_help = "refuse a file of another model; for an own network whose file does not name it, its name"

    inspect = commands.add_parser("inspect", help="say what each file holds and check its digest")
    inspect.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="files of any kind; other kinds are skipped"
    )
    inspect.add_argument("--model", help=model_help)
    inspect.add_argument("--prefix", default="", help=prefix_help)

    convert = commands.add_parser("convert", help="write a file in another layout, or import it into the companion")
    convert.add_argument("files", type=Path, nargs="+", metavar="FILE")
    convert.add_argument("--to", required=True, choices=("companion", "official", "timm", "mmpretrain"))
    convert.add_argument("--model", help=model_help)
    convert.add_argument("--prefix", default="", help=prefix_help)
    convert.add_argument(
        "--output", type=Path, metavar="FILE", help="where one converted file goes; its suffix decides the format"
    )
    folder_help = "with --to companion: the root below which DATASET/MODEL/released_*/seednone/ is made"
    convert.add_argument("--weights-folder", type=Path, metavar="FOLDER", help=folder_help)
    convert.add_argument("--dataset", default="imagenet", help="with --to companion: the dataset (default imagenet)")

    fetch = commands.add_parser("fetch", help="download the weights that timm publishes")
    fetch.add_argument("--models", nargs="+", required=True, metavar="MODEL")
    fetch.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    fetch.add_argument("--endpoint", metavar="URL", help="another server of the same kind")


def run(arguments: argparse.Namespace) -> None:
    """Run one action; raises CompanionError at the first weights file that cannot be used."""
    if arguments.action == "inspect":
        inspect(arguments.files, arguments.prefix, arguments.model)
    elif arguments.action == "fetch":
        fetch_all(arguments.models, arguments.output, arguments.endpoint)
    else:
        convert(request_of(ConvertRequest, arguments))


def inspect(paths: list[Path], prefix: str = "", model: str | None = None) -> None:
    """Print a line on each weights file; other files and folders are skipped with a note."""
    from repvgg_companion.weights.recognize import recognize
    from repvgg_companion.weights_file import stored_parameters

    skipped = [path for path in paths if not _is_weights(path)]
    if skipped == paths:
        if len(paths) == 1:
            folder = paths[0].is_dir()
            what = "is a folder; name the weights file in it" if folder else "is not a weights file; name one"
            raise CompanionError(f"{paths[0]} {what}")
        raise CompanionError(f"{', '.join(map(str, paths))}: no weights file among these; name at least one")
    for path in skipped:
        print(f"{path}: skipped, not a weights file", file=sys.stderr)
    for path in (path for path in paths if path not in skipped):
        weights = recognize(path, model=model, prefix=prefix)
        params = stored_parameters({key: tensor.shape for key, tensor in weights.state.items()})
        print(
            f"{path}: {weights.model}{f' at width {weights.width:g}' if weights.width != 1 else ''}{_below(weights)}, "
            f"{weights.form} form, {weights.layout} layout, {weights.num_classes} classes, "
            f"{params:,} parameters, SHA-256 {weights.sha256} ({weights.digest_check})"
        )


def _is_weights(path: Path) -> bool:
    """Whether a path is a weights file; a missing file is for the reader to name."""
    from repvgg_companion.weights_file import is_weights_file

    return is_weights_file(path) if path.is_file() else not path.is_dir()


def _below(weights: "RecognizedWeights") -> str:
    return f" under the prefix {weights.prefix!r}" if weights.prefix else ""


def convert(request: ConvertRequest) -> None:
    """Write every file in the layout that is asked for; a file that exists is never replaced."""
    from repvgg_companion.weights.published_files import PUBLISHED_DIGESTS
    from repvgg_companion.weights.recognize import recognize
    from repvgg_companion.weights.writing import companion_path, identity_of, write_companion, write_network

    for path in request.files:
        weights = recognize(path, model=request.model, prefix=request.prefix)
        if request.to == "companion":
            identity = identity_of(weights, request.dataset)
            target = request.output or companion_path(request.weights_folder or Path(), identity)
            if target.suffix != ".safetensors":
                raise CompanionError(f"{target}: the companion's own files end in .safetensors; name it so")
            if not _holds(target, weights.state, identity):
                write_companion(weights, target, request.dataset)
        else:
            target = request.output or Path()
            if target.name in PUBLISHED_DIGESTS:
                raise CompanionError(
                    f"{target}: the authors published a file of this name, and its digest is checked when it is read; "
                    "give --output another name"
                )
            if not write_network(weights, request.to, target):
                print(
                    f"{target}: the tensors do not tell that this is {weights.model}; read it with --model "
                    f"{weights.model} (in Python rc.load(..., model={weights.model!r})), or write a .safetensors file, "
                    "which names its network",
                    file=sys.stderr,
                )
        print(f"{path}: {weights.model}{_below(weights)} ({weights.form} form) -> {target}")


def _holds(target: Path, state: "Mapping[str, Tensor]", identity: "WeightsIdentity") -> bool:
    """Whether `target` is this import already; raises CompanionError if it is something else."""
    from repvgg_companion.weights_file import load_weights

    if not target.exists():
        return False
    try:
        existing, existing_identity = load_weights(target)
    except CompanionError:
        existing, existing_identity = {}, None
    same_names = existing_identity == identity and existing.keys() == state.keys()
    if same_names and all(bool((existing[key] == tensor).all()) for key, tensor in state.items()):
        return True
    raise CompanionError(f"{target} exists already and holds something else, so it is kept; choose another place")


def fetch_all(models: list[str], folder: Path, endpoint: str | None) -> None:
    """Download timm's weights of all `models` into `folder` and print their paths."""
    from repvgg_companion.progress import Progress
    from repvgg_companion.weights.fetch import fetch
    from repvgg_companion.weights.published_files import timm_repository

    for model in models:
        timm_repository(model)
    with Progress("fetching", total=len(models), unit="files") as progress:
        for model in models:
            print(fetch(model, folder, endpoint=endpoint))
            progress.advance()
