"""What a crate holds, and how its files, runs and workflow belong together in the terms of the profile."""

import datetime
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion import __version__
from repvgg_companion.contract import TABLES
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import read_table
from repvgg_companion.files import read_json, sha256_of_file

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
PAPER = "https://arxiv.org/abs/2101.03697"
LICENCE = "https://spdx.org/licenses/MIT"


@dataclass(frozen=True)
class Contents:
    """The files of a crate, below the checkout; `inputs` are read by the workflow, `results` are made by it."""

    name: str
    description: str
    workflow: Path
    language: str
    inputs: tuple[Path, ...]
    results: tuple[Path, ...]
    runs: tuple[dict[str, Any], ...]
    dataset: dict[str, Any] | None = None


def experiment_contents(root: Path, results: Path) -> Contents:
    """All that belongs to one experiment; raises CompanionError if it is not finished."""
    provenance = results / "provenance.json"
    if not provenance.exists():
        raise CompanionError(f"{provenance} does not exist; finish the experiment first")
    facts = read_json(provenance)
    name = facts["experiment"]
    figures = root / "paper_figures" / results.name
    inputs = [*_files(root / "paper"), *_files(root / "workflow"), root / "config" / f"{name}.yaml"]
    return Contents(
        f"RepVGG companion: experiment {name}",
        f"Accuracies, certificates, speeds, tables, figures and verdicts of the experiment {name} on the dataset "
        f"{facts['dataset']['dataset']}, made at commit {facts['commit']}.",
        root / "Snakefile",
        "snakemake",
        tuple(path for path in inputs if path.is_file()),
        (*_files(results), *_files(figures)),
        tuple(read_json(path) for path in sorted((results / "runs").glob("*.json"))),
        facts["dataset"],
    )


def ledger_contents(root: Path, results: Path) -> Contents:
    """The ledger with the measurements and published tables that it is made from."""
    devices = root / "results" / "devices"
    studies = root / "results" / "studies"
    return Contents(
        "RepVGG companion: the state of the evidence",
        "Every claim of the RepVGG paper with all evidence, graded by class.",
        root / "Makefile",
        "make",
        (*_files(root / "paper"), *_files(devices), *_files(studies)),
        (*_files(results), *_files(root / "paper_figures" / "reference")),
        tuple(read_json(path) for path in sorted(devices.glob("*/runs/*.json"))),
    )


def _files(folder: Path) -> list[Path]:
    """The visible files below a folder, without the parts that are joined into the result tables."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and parts[0] != "parts":
            found.append(path)
    return found


def fill(crate: "ROCrate", contents: Contents, root: Path, agent: str, maker: str) -> None:
    """Add files, workflow, runs and profiles to an empty crate."""
    files = {path: _add_file(crate, path, root) for path in (*contents.inputs, *contents.results)}
    workflow = _add_workflow(crate, contents, root)
    ended = _moment(max(path.stat().st_mtime for path in contents.results))
    crate.name, crate.description, crate.datePublished = contents.name, contents.description, ended
    crate.metadata.extra_contexts.append(TERMS)
    about = _add_profiles(crate, maker)
    workflow["license"] = about
    objects = [files[path] for path in contents.inputs]
    if contents.dataset is not None:
        objects.append(_add_images(crate, contents.dataset))
    action = crate.add_action(
        workflow,
        identifier="#workflow-run",
        object=objects,
        result=[files[path] for path in contents.results],
        properties={
            "@type": "CreateAction",
            "name": f"Run of {contents.workflow.name}",
            "description": contents.description,
            "endTime": ended,
        },
    )
    readme = root / "README.md"
    if readme.is_file():
        _add_file(crate, readme, root)["about"] = crate.root_dataset
    made = _files_of_runs(files)
    actions = [action]
    for facts in contents.runs:
        done = max((path.stat().st_mtime for path in files if path.stem == facts["run_id"]), default=0.0)
        actions.append(_add_run(crate, facts, made.get(facts["run_id"], []), _moment(done)))
    if agent:
        who = _context(crate, "#agent", {"@type": "Person", "name": agent})
        for one in actions:
            one["agent"] = who
    crate.root_dataset["mentions"] = actions


def _context(crate: "ROCrate", identifier: str, properties: dict[str, Any]) -> "Entity":
    from rocrate.model.contextentity import ContextEntity

    return crate.add(ContextEntity(crate, identifier, properties=properties))


def _add_profiles(crate: "ROCrate", maker: str) -> "Entity":
    """The profiles, the licence and this software; returns the licence."""
    profiles = [
        _context(crate, address, {"@type": "CreativeWork", "name": name, "version": version})
        for address, (name, version) in PROFILES.items()
    ]
    licence = _context(crate, LICENCE, {"@type": "CreativeWork", "name": "MIT License", "identifier": "MIT"})
    software = {
        "@type": "SoftwareApplication",
        "name": "repvgg_companion",
        "softwareVersion": __version__,
        "description": "An unofficial companion to the paper RepVGG (CVPR 2021, arXiv 2101.03697)",
        "url": PAPER,
    }
    crate.root_dataset["conformsTo"] = profiles
    crate.root_dataset["license"] = licence
    crate.root_dataset["isBasedOn"] = _context(crate, maker, software)
    return licence


def _add_file(crate: "ROCrate", path: Path, root: Path) -> "Entity":
    properties = {
        "name": path.name,
        "contentSize": str(path.stat().st_size),
        "sha256": sha256_of_file(path),
        "encodingFormat": _format(path),
    }
    return crate.add_file(path, dest_path=_place(path, root), properties=properties)


def _add_workflow(crate: "ROCrate", contents: Contents, root: Path) -> "Entity":
    from rocrate.model.computerlanguage import ComputerLanguage

    language: Any = contents.language
    if language == "make":
        properties = {
            "name": "GNU Make",
            "identifier": {"@id": "https://www.gnu.org/software/make/"},
            "url": {"@id": "https://www.gnu.org/software/make/"},
        }
        language = crate.add(ComputerLanguage(crate, identifier="#make", properties=properties))
    return crate.add_workflow(
        contents.workflow,
        dest_path=_place(contents.workflow, root),
        main=True,
        lang=language,
        properties={
            "name": f"The workflow of the RepVGG companion ({contents.workflow.name})",
            "version": __version__,
            "sha256": sha256_of_file(contents.workflow),
            "encodingFormat": "text/plain",
            "url": PAPER,
        },
    )


def _add_images(crate: "ROCrate", dataset: dict[str, Any]) -> "Entity":
    """The images are named by the digest of their manifests; a crate never holds them."""
    counts = ", ".join(f"{dataset[part]['n_images']} {part}" for part in ("train", "val") if dataset.get(part))
    properties = {
        "@type": "CreativeWork",
        "name": f"Images of {dataset['dataset']}",
        "description": f"{counts} images in {dataset['num_classes']} classes; only their manifests are identified here",
        "identifier": f"sha256:{dataset['dataset_sha256']}",
    }
    return _context(crate, f"#images-{dataset['dataset']}", properties)


def _files_of_runs(files: dict[Path, "Entity"]) -> dict[str, list["Entity"]]:
    """The files that each run made or added rows to, by its run_id."""
    made: dict[str, list[Entity]] = {}
    for path, file in files.items():
        runs = {path.stem}
        if path.suffix == ".csv" and path.stem in TABLES:
            runs = {row["run_id"] for row in read_table(path).rows if row.get("run_id")}
        for run in runs:
            made.setdefault(run, []).append(file)
    return made


def _add_run(crate: "ROCrate", facts: dict[str, Any], made: list["Entity"], ended: str) -> "Entity":
    """One execution of a measuring verb with the files that it made and the tables that hold its rows."""
    run_id = facts["run_id"]
    stamp, _, rest = run_id.partition("-")
    verb = rest.rpartition("-")[0]
    tool = crate.get(f"#verb-{verb}") or _context(
        crate,
        f"#verb-{verb}",
        {
            "@type": "SoftwareApplication",
            "name": f"repvgg_companion {verb}",
            "softwareVersion": facts.get("environment", {}).get("repvgg_companion", __version__),
            "url": PAPER,
        },
    )
    started = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    properties = {
        "@type": "CreateAction",
        "name": f"{verb} at commit {facts.get('commit', 'unknown')}",
        "description": " ".join(facts.get("command", [])) or verb,
        "startTime": started.isoformat(),
        "endTime": ended,
    }
    return crate.add_action(tool, identifier=f"#{run_id}", result=made, properties=properties)


def _place(path: Path, root: Path) -> str:
    return path.resolve().relative_to(root.resolve()).as_posix()


def _format(path: Path) -> str:
    special = {".parquet": "application/vnd.apache.parquet", ".md": "text/markdown", ".yaml": "application/yaml",
               ".smk": "text/x-snakemake", ".rst": "text/x-rst", ".tex": "text/x-tex"}  # fmt: skip
    return special.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
