"""The verb `jobs`: write the commands of an experiment as a shell script, for a machine without Snakemake.

The commands come from a dry run of Snakemake, in its order. Those whose results exist are left out, and so are the
cheap ones (tables, figures, claims, report), which the machine that adopts the results runs. The script can be started
again at any time: what is finished is skipped, a training continues.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repvgg_companion.errors import CompanionError, counted
from repvgg_companion.experiment.load import read_experiment
from repvgg_companion.experiment.paths import write_resolved
from repvgg_companion.files import write_text
from repvgg_companion.runs import commit

ROOT = Path(__file__).resolve().parents[3]
PREPARING = ("make-demo-data", "index", "pack", "cache")
CARRIED = (
    *PREPARING,
    *("train", "weights", "reparameterize", "evaluate", "evaluate-segmentation"),
    *("count-complexity", "measure-speed", "measure-kernel-sizes", "measure-memory"),
)
"""Verbs whose work is worth a machine of its own; none of them imports more than torch's own dependencies."""

MARK = "written by `python -m repvgg_companion jobs`"
HEAD = """#!/usr/bin/env bash
# {count} jobs of {origin}, {mark}. The other machine needs Python 3.11 or newer with
# torch, torchvision, numpy, scipy, pyarrow, safetensors, pillow, rich and nvidia-ml-py; and in one folder:
#   this script
#   src/
{files}# Start it in that folder; again to continue. Afterwards bring its `results` back, and where Snakemake is say:
#   python -m repvgg_companion adopt FOLDER
set -uo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
export PYTHONPATH="$PWD/src" REPVGG_COMPANION_COMMIT={commit}
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
    """One command of the workflow: its rule, its output files, its words, its input files."""

    rule: str
    outputs: tuple[str, ...]
    command: tuple[str, ...]
    inputs: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        """The verb of the package that it calls, empty where it calls none."""
        words = self.command
        return words[3] if words[:3] == ("python", "-m", "repvgg_companion") else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `jobs` verb."""
    parser.add_argument("experiment", help="an experiment file, such as config/imagenet.yaml")
    parser.add_argument("--output", help="the script (default: jobs-EXPERIMENT.sh in this folder)")
    parser.add_argument("--gpus", type=int, help="GPUs of the other machine for each training, instead of the file's")


def run(arguments: argparse.Namespace) -> None:
    """Write the script; raises CompanionError if the experiment or its workflow is not in order."""
    experiment = read_experiment(arguments.experiment)
    output = Path(arguments.output or f"jobs-{experiment.experiment}.sh")
    if output.exists() and MARK not in output.read_bytes()[:2000].decode(errors="replace"):
        raise CompanionError(f"{output} exists and is not a script of `jobs`; name another file with --output")
    if arguments.gpus is not None and arguments.gpus < 0:
        raise CompanionError(f"--gpus is {arguments.gpus}; give 0 for none, or how many")
    jobs = jobs_to_carry(arguments.experiment)
    if all(job.verb in PREPARING for job in jobs):
        print(f"{arguments.experiment}: no job is left for another machine; `snakemake` here makes the rest")
        return
    if arguments.gpus is not None:
        jobs = [_with_gpus(job, arguments.gpus) for job in jobs]
    images = [path for key, path in experiment.data.source.items() if key != "generate"]
    write_text(output, script(jobs, arguments.experiment, [*images, write_resolved(experiment), *files_to_carry(jobs)]))
    output.chmod(0o755)
    print(f"{output}: {counted(len(jobs), 'job')}, {sum(job.verb == 'train' for job in jobs)} of them trainings")


def _with_gpus(job: Job, count: int) -> Job:
    words = list(job.command)
    if job.verb == "train" and "--gpus" in words:
        words[words.index("--gpus") + 1] = str(count)
    return replace(job, command=tuple(words))


def files_to_carry(jobs: list[Job]) -> list[str]:
    """Files that the jobs read and none of them makes: weights finished here, and states of trainings begun here."""
    made = {path for job in jobs for path in job.outputs}
    read = {path for job in jobs for path in job.inputs if not Path(path).is_relative_to(ROOT / "src")}
    states = {job.command[job.command.index("--state") + 1] for job in jobs if "--state" in job.command}
    return sorted(path for path in (read - made) | states if Path(path).exists())


def jobs_to_carry(config: str) -> list[Job]:
    """The costly jobs that are not done here, after those that prepare the images, which the other machine lacks."""
    pending = [job for job in planned_jobs(config) if job.verb in CARRIED and job.verb not in PREPARING]
    return [job for job in planned_jobs(config, "--forceall") if job.verb in PREPARING] + pending


def planned_jobs(config: str, *options: str) -> list[Job]:
    """The jobs that Snakemake would run in this folder for an experiment file, in its order."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(config)),
            # Plan for more than this machine has: the commands are for another one.
            *("--dry-run", "--printshellcmds", "--nolock", "--cores", "100000", "--resources", "gpu=100000", *options),
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
        files = []
        for kind in ("output", "input"):
            found = re.search(rf"^    {kind}: (.*)$", block, re.MULTILINE)
            files.append(tuple(name.strip() for name in found[1].split(", ")) if found else ())
        if rule and command:
            jobs.append(Job(rule[1], files[0], tuple(shlex.split(command[1])), files[1]))
    return jobs


def script(jobs: list[Job], origin: str, files: Sequence[str] = ()) -> str:
    """The shell script that runs the jobs one after the other; `files` are what must be carried along."""
    told = "".join(f"#   {path}\n" for path in dict.fromkeys(files))
    lines = [HEAD.format(count=len(jobs), origin=origin, mark=MARK, files=told, commit=shlex.quote(commit()))]
    lines += [f"job {shlex.quote(' '.join(job.outputs))} {shlex.join(job.command)}" for job in jobs]
    return "\n".join(lines) + "\n" + TAIL
