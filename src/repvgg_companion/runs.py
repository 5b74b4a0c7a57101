"""One execution of a measuring verb: its `run_id` and the JSON file of commit, environment and flags."""

import datetime
import getpass
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

_RECORDED = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pyarrow",
    "safetensors",
    "pillow",
    "simplejpeg",
    "timm",
    "onnxruntime",
    "openvino",
    "pandas",
    "matplotlib",
    "snakemake",
)
COMMIT_VARIABLE = "REPVGG_COMPANION_COMMIT"
COMMIT_FILE = Path(__file__).with_name("COMMIT")
"""The commit in an archive that git or GitHub made of the repository; in a checkout a placeholder (.gitattributes)."""
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")


@cache
def commit() -> str:
    """The companion's commit, `-dirty` appended if tracked files differ, or `unknown (REASON)`.

    It is that of the companion's own checkout, else that in REPVGG_COMPANION_COMMIT, else that of an unpacked archive.
    The repository of a user around the package does not count.
    """
    try:
        return _commit_of_checkout(Path(__file__).resolve().parents[2])
    except LookupError as error:
        carried = os.environ.get(COMMIT_VARIABLE, "") or COMMIT_FILE.read_text(encoding="utf-8").strip()
        return carried if re.fullmatch(r"[0-9a-f]{7,64}(-dirty)?", carried) else f"unknown ({error})"


def _commit_of_checkout(root: Path) -> str:
    """The commit of the checkout at `root`; raises LookupError with the reason if there is none to ask."""
    environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}

    def git(*arguments: str) -> str:
        words = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        except FileNotFoundError:
            raise LookupError("git is not installed") from None
        except subprocess.CalledProcessError as error:
            dubious = "dubious ownership" in error.stderr
            reason = "dubious ownership, see git config safe.directory" if dubious else "not a checkout with a commit"
            raise LookupError(reason) from None
        return done.stdout.strip()

    if Path(git("rev-parse", "--show-toplevel")) != root:
        raise LookupError("not a checkout of the companion")
    revision = git("rev-parse", "HEAD")
    if not git("ls-files", str(Path(__file__).resolve())):  # unpacked into the top folder of another repository
        raise LookupError("not a checkout of the companion")
    return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


def ensure_user_name() -> None:
    """Give a user without an entry in passwd a name, as in `docker run -u 1234`; Snakemake and torch ask for one."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"


def environment() -> dict[str, str]:
    """Versions of Python, the operating system and the recorded packages; reads metadata, imports none of them."""
    # Drop what the machine's owner appended to the kernel release, since results are published.
    found = re.match(r"[\d.]*\d", platform.release())
    release = found.group() if found else ""
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


def _published(word: str) -> str:
    """A word of the command line; of an absolute path only its last part, since results are published."""
    return f".../{Path(word).name}" if word.startswith("/") else word


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
            "command": ["python", "-m", "repvgg_companion", *map(_published, sys.argv[1:])],
            **facts,
        },
    )
    return path
