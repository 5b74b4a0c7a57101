"""The verb `weights`: inspect what a file holds, convert it to any layout, fetch what timm publishes."""

import argparse
from pathlib import Path

from repvgg_companion.errors import CompanionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands of the verb `weights`."""
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    inspect = commands.add_parser("inspect", help="say what each file holds and check its digest")
    inspect.add_argument("files", nargs="+", metavar="FILE")

    convert = commands.add_parser("convert", help="write a file in another layout, or import it into the companion")
    convert.add_argument("files", nargs="+", metavar="FILE")
    convert.add_argument("--to", required=True, choices=("companion", "official", "timm", "mmpretrain"))
    convert.add_argument("--model", help="refuse a file of another model")
    convert.add_argument(
        "--output", metavar="FILE", help="where one converted file goes; its suffix decides the format"
    )
    folder_help = "with --to companion: the root below which DATASET/MODEL/released_*/seednone/ is made"
    convert.add_argument("--weights-folder", metavar="FOLDER", help=folder_help)
    convert.add_argument("--dataset", default="imagenet", help="with --to companion: the dataset (default imagenet)")

    fetch = commands.add_parser("fetch", help="download the weights that timm publishes")
    fetch.add_argument("--models", nargs="+", required=True, metavar="MODEL")
    fetch.add_argument("--output", required=True, metavar="FOLDER")
    fetch.add_argument("--endpoint", metavar="URL", help="another server of the same kind")


def run(arguments: argparse.Namespace) -> None:
    """Run one action; raises CompanionError at the first file that cannot be used."""
    {"inspect": _inspect, "convert": _convert, "fetch": _fetch}[arguments.action](arguments)


def _inspect(arguments: argparse.Namespace) -> None:
    from repvgg_companion.weights.recognize import recognize

    for path in arguments.files:
        weights = recognize(path)
        params = sum(
            tensor.numel()
            for key, tensor in weights.state.items()
            if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )
        print(
            f"{path}: {weights.model}{f' at width {weights.width:g}' if weights.width != 1 else ''}, "
            f"{weights.form} form, {weights.layout} layout, {weights.num_classes} classes, "
            f"{params:,} parameters, SHA-256 {weights.sha256} ({weights.digest_check})"
        )


def _convert(arguments: argparse.Namespace) -> None:
    from repvgg_companion.weights.recognize import recognize
    from repvgg_companion.weights.writing import companion_path, identity_of, write_companion, write_layout

    if (arguments.output is None) == (arguments.weights_folder is None):
        raise CompanionError("give either --output FILE or --weights-folder FOLDER")
    if arguments.weights_folder is not None and arguments.to != "companion":
        raise CompanionError("--weights-folder goes with --to companion; give --output FILE for another layout")
    if arguments.output is not None and len(arguments.files) > 1:
        raise CompanionError("--output names one file; convert one file at a time, or give --weights-folder")
    for path in arguments.files:
        weights = recognize(path, model=arguments.model)
        if arguments.to == "companion":
            identity = identity_of(weights, arguments.dataset)
            target = Path(arguments.output or companion_path(arguments.weights_folder, identity))
            if target.suffix != ".safetensors":
                raise CompanionError(f"{target}: our own files end in .safetensors")
            if not _holds(target, weights.state, identity):
                write_companion(weights, target, arguments.dataset)
        else:
            target = Path(arguments.output)
            write_layout(weights.state, arguments.to, target)
        print(f"{path}: {weights.model} ({weights.form} form) -> {target}")


def _holds(target: Path, state: dict, identity: object) -> bool:
    """Whether `target` is this very import already; raises CompanionError where it is something else."""
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
    raise CompanionError(f"{target} exists already and holds something else; it is not overwritten")


def _fetch(arguments: argparse.Namespace) -> None:
    from repvgg_companion.progress import Progress
    from repvgg_companion.weights.fetch import fetch
    from repvgg_companion.weights.published_files import timm_repository

    for model in arguments.models:
        timm_repository(model)
    with Progress("fetching", total=len(arguments.models), unit="files") as progress:
        for model in arguments.models:
            print(fetch(model, arguments.output, endpoint=arguments.endpoint))
            progress.advance()
