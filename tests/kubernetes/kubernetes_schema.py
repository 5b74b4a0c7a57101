"""The schema of Kubernetes Jobs, in which unknown keys are errors: fetched once, then used to check manifests."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

VERSIONS = ("1.29.0", "1.37.0")
BASE = "https://kubernetes.io/api/"


def fetch(folder: Path) -> None:
    """Write the schemas into `folder`; raises CalledProcessError where no package index can be reached."""
    requirements = Path(__file__).with_name("requirements.txt")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--require-hashes", "--only-binary", ":all:", "-r", str(requirements), "-d", str(folder)]
    subprocess.run([*pip, *options], check=True, capture_output=True, text=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for version in VERSIONS:
            for name in ("job-batch-v1.json", "_definitions.json"):
                path = f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/{name}"
                (folder / version).mkdir(exist_ok=True)
                (folder / version / name).write_bytes(archive.read(path))


def faults(job: dict[str, Any], folder: Path) -> list[str]:
    """What the schemas in `folder` say against a manifest."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    found = []
    for version in VERSIONS:
        schema = json.loads((folder / version / "job-batch-v1.json").read_text())
        definitions = json.loads((folder / version / "_definitions.json").read_text())
        registry = Registry().with_resource(BASE + "_definitions.json", Resource.from_contents(definitions))
        validator = Draft202012Validator({**schema, "$id": BASE + "job.json"}, registry=registry)
        found += [f"{version}: {error.json_path}: {error.message}" for error in validator.iter_errors(job)]
    return found
