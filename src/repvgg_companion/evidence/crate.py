"""The `crate` verb: an experiment, or the ledger, as a Workflow Run RO-Crate that other tools can read.

A crate is a folder with copies of the results and of the files they were made by, and `ro-crate-metadata.json`, which
says how they belong together. Profile: https://w3id.org/ro/wfrun/workflow/0.5.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.crate_parts import Contents, experiment_contents, fill, ledger_contents

METADATA = "ro-crate-metadata.json"
MAKER = "#repvgg-companion"


@dataclass(frozen=True)
class CrateRequest:
    """The results to pack, the checkout that made them, and the folder to write; `agent` ran the workflow."""

    results: Path
    root: Path
    output: Path
    agent: str

    def __post_init__(self) -> None:
        """Raise CompanionError if the results lie outside the checkout or the output inside the results."""
        if not self.results.is_dir():
            raise CompanionError(f"{self.results} is not a folder; name results/EXPERIMENT or results/reference")
        if not self.results.resolve().is_relative_to(self.root.resolve()):
            raise CompanionError(f"{self.results} is not below {self.root}; name the checkout with --root")
        if self.output.resolve().is_relative_to(self.results.resolve()):
            raise CompanionError(f"--output {self.output} is inside the results that are packed; name another folder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `crate` verb."""
    parser.add_argument("results", metavar="RESULTS", help="results/EXPERIMENT, or results/reference for the ledger")
    parser.add_argument("--output", required=True, help="a new folder, or a crate that this verb wrote before")
    parser.add_argument("--root", default=".", help="the checkout with Snakefile, config and paper")
    parser.add_argument("--agent", default="", help="name of the person or institution that ran the workflow")


def run(arguments: argparse.Namespace) -> None:
    """Write the crate and print where it is."""
    request = CrateRequest(
        Path(arguments.results), Path(arguments.root), Path(arguments.output), arguments.agent.strip()
    )
    is_ledger = (request.results / "ledger.csv").exists()
    contents = (ledger_contents if is_ledger else experiment_contents)(request.root, request.results)
    write_crate(contents, request)
    print(f"{request.output}: {len(contents.inputs) + len(contents.results)} files, described in {METADATA}")


def write_crate(contents: Contents, request: CrateRequest) -> None:
    """Write the crate beside its place, then move it there; an older crate of ours is replaced whole.

    Raises CompanionError if `rocrate` is missing or the folder holds anything that this verb did not write.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise CompanionError("the package rocrate is missing; install it with 'pip install rocrate'") from None
    require_ours(request.output)
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{request.output.name}.", dir=request.output.parent) as scratch:
        crate = ROCrate(version="1.1")
        fill(crate, contents, request.root, request.agent, MAKER)
        crate.write(Path(scratch) / "new")
        if request.output.exists():
            request.output.rename(Path(scratch) / "old")
        shutil.move(Path(scratch) / "new", request.output)


def require_ours(folder: Path) -> None:
    """Raise CompanionError unless `folder` is missing, empty, or holds nothing but a crate of this verb."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CompanionError(f"--output {folder} is a file; name a new folder")
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not held:
        return
    try:
        graph = json.loads((folder / METADATA).read_text(encoding="utf-8"))["@graph"]
        known = {entity["@id"] for entity in graph}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    if MAKER not in known:
        raise CompanionError(f"--output {folder} holds files that this verb did not write; name a new folder")
    if others := sorted(held - known - {METADATA}):
        raise CompanionError(
            f"--output {folder} also holds {others[0]}, which is not part of the crate; name a new folder"
        )
