"""One execution of a measuring verb: its `run_id` and the JSON file of commit, environment and flags."""

import datetime
import os
import platform
import re
import secrets
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from repvgg_companion import __version__
from repvgg_companion.files import write_json

_RECORDED = ("torch", "torchvision", "numpy", "scipy", "pyarrow", "safetensors", "pillow", "simplejpeg", "timm",
             "onnxruntime", "openvino", "pandas", "matplotlib", "snakemake")  # fmt: skip


@cache
def commit() -> str:
    """The commit of the companion's checkout, `-dirty` appended where tracked files differ; `unknown` outside git."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment() -> dict[str, str]:
    """Versions of Python, the operating system and the recorded packages; reads metadata, imports none of them."""
    # Without what a machine's owner appended to the release of the kernel: results are published.
    release = re.match(r"[\d.]*\d|", platform.release()).group()
    system = "-".join(filter(None, [platform.system(), release, platform.machine(), *platform.libc_ver()]))
    versions = {"python": platform.python_version(), "system": system, "repvgg_companion": __version__}
    for package in _RECORDED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def new_run_id(verb: str) -> str:
    """A sortable, unique name of one execution, such as `20260301T120000Z-evaluate-1a2b3c`."""
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{moment}-{verb}-{secrets.token_hex(3)}"


def write_run(folder: str | Path, run_id: str, **facts: Any) -> Path:
    """Write `RUN_ID.json` into `folder`: commit, environment, command line and the given facts (flags, device)."""
    path = Path(folder) / f"{run_id}.json"
    host = {"cpu_count": os.cpu_count(), "machine": platform.machine()}
    write_json(
        path,
        {
            "run_id": run_id,
            "commit": commit(),
            "environment": environment(),
            "host": host,
            "command": ["python", "-m", "repvgg_companion", *sys.argv[1:]],
            **facts,
        },
    )
    return path
