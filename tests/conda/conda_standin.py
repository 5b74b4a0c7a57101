"""A stand-in for the `conda` command, for machines where conda cannot be installed. It is NOT conda.

It answers what Snakemake asks of conda, and solves and installs for real, with py-rattler, from local channels only:
the folder in CONDA_STANDIN_CHANNELS holds one channel for each name that an environment file may use. So it exercises
the environment file (names, ranges, channels), the rules' `conda:` directives and activation. What the real channels
hold it cannot know.

    python conda_standin.py --setup ROOT     write ROOT/bin/conda and ROOT/bin/activate; put ROOT/bin on PATH
"""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

VERSION = "99.0.0"  # Snakemake wants 24.7.1 or newer
ACTIVATE = """\
# sourced by Snakemake: source ROOT/bin/activate ENVIRONMENT
[ -x "$1/bin/python" ] || { echo "conda stand-in: no environment at $1" >&2; return 1; }
export CONDA_PREFIX="$1" CONDA_DEFAULT_ENV="$1" CONDA_SHLVL=1 PATH="$1/bin:$PATH"
"""


def set_up(root: Path) -> None:
    """Write the command and what it takes to activate an environment."""
    (root / "bin").mkdir(parents=True, exist_ok=True)
    command = root / "bin" / "conda"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    command.chmod(0o755)
    (root / "bin" / "activate").write_text(ACTIVATE)


def channel_of(name: str) -> str:
    """The local channel that stands for a channel's name; an unknown name ends the command."""
    folder = Path(os.environ["CONDA_STANDIN_CHANNELS"], name)
    if not folder.is_dir():
        sys.exit(f"conda stand-in: there is no channel {name}")
    return f"file://{folder}"


async def create(path: str, prefix: str | None) -> None:
    """Solve an environment file, and install it where a prefix is given."""
    import yaml
    from rattler import MatchSpec, Subdir, VirtualPackage, install, solve

    environment = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    unknown = set(environment) - {"name", "channels", "dependencies"}
    if unknown:
        sys.exit(f"conda stand-in: {path} has unknown keys: {', '.join(sorted(unknown))}")
    records = await solve(
        [channel_of(name) for name in environment["channels"]],
        [MatchSpec(text, strict=False) for text in environment["dependencies"]],
        platforms=[str(Subdir.current()), "noarch"],
        virtual_packages=[package.into_generic() for package in VirtualPackage.detect()],
    )
    if prefix:
        await install(records, prefix, show_progress=False)


def option(words: list[str], *names: str) -> str | None:
    """The value of an option, given as `--name value` or `--name=value`."""
    for place, word in enumerate(words):
        for name in names:
            if word == name:
                return words[place + 1]
            if word.startswith(name + "="):
                return word[len(name) + 1 :]
    return None


def main(words: list[str]) -> None:
    if words[:1] == ["--setup"]:
        set_up(Path(words[1]).resolve())
    elif words in (["--version"], ["-V"]):
        print(f"conda {VERSION} (stand-in, py-rattler)")
    elif words[:1] == ["info"]:
        from rattler import Subdir

        root = str(Path(shutil.which("conda") or sys.argv[0]).parent.parent)
        facts = {"conda_prefix": root, "root_prefix": root, "platform": str(Subdir.current()), "conda_version": VERSION}
        print(json.dumps(facts))
    elif words[:2] == ["config", "--get"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif words[:1] == ["clean"] or words[:2] == ["config", "--set"]:
        return
    elif words[:2] == ["list", "--explicit"]:
        records = Path(option(words, "--prefix", "-p"), "conda-meta").glob("*.json")
        print("\n".join(["@EXPLICIT", *(json.loads(path.read_text())["url"] for path in sorted(records))]))
    elif words[:2] == ["env", "create"]:
        prefix = option(words, "--prefix", "-p")
        try:
            asyncio.run(create(option(words, "--file", "-f"), None if "--dry-run" in words else prefix))
        except Exception as error:  # whatever a solver says, conda says it on standard error and fails
            sys.exit(f"conda stand-in: {type(error).__name__}: {error}")
    else:
        sys.exit(f"conda stand-in: cannot do {' '.join(words)}")


if __name__ == "__main__":
    status: int | str | None = 0
    try:
        main(sys.argv[1:])
    except SystemExit as end:
        status = end.code
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)  # py-rattler's threads may crash an interpreter that ends in the ordinary way
