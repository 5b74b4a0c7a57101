"""The verb `jobs`: an experiment file in, a shell script of the exact commands out, for a machine without Snakemake.

The commands are those that Snakemake would run, in its order, from its own dry run: what is already made is not among
them, and neither are the cheap ones (tables, figures, claims, report), which are left for the machine that adopts the
results. The script can be started again at any time: what is finished is skipped, a training continues.
"""

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.load import read_experiment
from repvgg_companion.files import write_text

ROOT = Path(__file__).resolve().parents[3]
PREPARING = ("make-demo-data", "index", "pack", "cache")
CARRIED = (
    *PREPARING,
    *("train", "weights", "reparameterize", "evaluate"),
    *("count-complexity", "measure-speed", "measure-kernel-sizes", "measure-memory"),
)
"""Verbs whose work is worth a machine of its own; none of them imports more than torch's own dependencies."""

HEAD = """#!/usr/bin/env bash
# {count} jobs of {origin}, written by `python -m repvgg_companion jobs`. They need Python with torch, torchvision,
# numpy, scipy, pyarrow, safetensors, pillow, rich, filelock and nvidia-ml-py, this script in the companion's folder,
# and the images at the paths of the experiment file. Start it again to continue. Afterwards, where Snakemake is:
#   python -m repvgg_companion adopt FOLDER     (FOLDER: where this machine's `results` was copied to)
set -uo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
export PYTHONPATH="$PWD/src"
PYTHON=${{PYTHON:-python3}}
failed=0
python() {{ command "$PYTHON" "$@"; }}
job() {{ # OUTPUTS (one word), then the command
    local output
    for output in $1; do [ -e "$output" ] || {{ output=; break; }}; done
    [ -z "$output" ] || {{ echo "done already: $1"; return 0; }}
    shift
    "$@"
    local status=$?
    [ $status != 75 ] || {{ echo "stopped with the state saved; start the script again"; exit 75; }}
    [ $status = 0 ] || {{ failed=$((failed + 1)); echo "failed with status $status: $*" >&2; }}
}}
"""

TAIL = """
[ $failed = 0 ] || { echo "$failed jobs failed" >&2; exit 1; }
"""


@dataclass(frozen=True)
class Job:
    """One command of the workflow: its rule, its output files, its words."""

    rule: str
    outputs: tuple[str, ...]
    command: tuple[str, ...]

    @property
    def verb(self) -> str:
        """The verb of the package that it calls, empty where it calls none."""
        words = self.command
        return words[3] if words[:3] == ("python", "-m", "repvgg_companion") else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `jobs` verb."""
    parser.add_argument("experiment", help="an experiment file, such as config/imagenet.yaml")
    parser.add_argument("--output", help="the script (default: jobs-EXPERIMENT.sh in this folder)")


def run(arguments: argparse.Namespace) -> None:
    """Write the script; raises CompanionError where the experiment or its workflow is not in order."""
    experiment = read_experiment(arguments.experiment)
    output = Path(arguments.output or f"jobs-{experiment.experiment}.sh")
    jobs = jobs_to_carry(arguments.experiment)
    write_text(output, script(jobs, arguments.experiment))
    output.chmod(0o755)
    print(f"{output}: {len(jobs)} jobs, {sum(job.verb == 'train' for job in jobs)} of them trainings")


def jobs_to_carry(config: str) -> list[Job]:
    """The costly jobs that are not done here, after those that prepare the images, which the other machine lacks."""
    pending = [job for job in planned_jobs(config) if job.verb in CARRIED and job.verb not in PREPARING]
    return [job for job in planned_jobs(config, "--forceall") if job.verb in PREPARING] + pending


def planned_jobs(config: str, *options: str) -> list[Job]:
    """What Snakemake would run in this folder for an experiment file, in its order."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(config)),
            *("--dry-run", "--printshellcmds", "--nolock", "--cores", "1", *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise CompanionError(f"Snakemake cannot plan {config}: {lines[-1].strip() if lines else 'it says nothing'}")
    return parse_dry_run(done.stdout + done.stderr)


def parse_dry_run(text: str) -> list[Job]:
    """The jobs that a dry run with `--printshellcmds` lists."""
    jobs = []
    for block in re.split(r"^\[[A-Z][a-z]{2} .*\]$", text, flags=re.MULTILINE)[1:]:
        rule = re.search(r"^(?:local)?(?:rule|checkpoint) (\S+):$", block, re.MULTILINE)
        command = re.search(r"^Shell command: (.*)$", block, re.MULTILINE)
        output = re.search(r"^    output: (.*)$", block, re.MULTILINE)
        if rule and command:
            outputs = tuple(name.strip() for name in output[1].split(", ")) if output else ()
            jobs.append(Job(rule[1], outputs, tuple(shlex.split(command[1]))))
    return jobs


def script(jobs: list[Job], origin: str) -> str:
    """The shell script that runs the jobs one after the other."""
    lines = [HEAD.format(count=len(jobs), origin=origin)]
    lines += [f"job {shlex.quote(' '.join(job.outputs))} {shlex.join(job.command)}" for job in jobs]
    return "\n".join(lines) + "\n" + TAIL
