"""Snakemake's retries: for what a further attempt may get over, never for what only the user can fix."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repvgg_companion.errors import needs_fixing
from repvgg_companion.training.job.state import StateFolder

from .conftest import MICRO, ROOT, snakemake, write_config

SNAKEFILE = """
from repvgg_companion.experiment.termination import no_retry_of_user_errors
no_retry_of_user_errors(workflow)
rule all:
    input: "a.txt", "b.txt"
rule job:
    input: ancient("settings")
    output: "{name}.txt"
    log: "logs/{name}.log"
    shell:
        "echo tried >> {wildcards.name}.tries; : > {log}; "
        "if [ {wildcards.name} = a ] && ! grep -q mended {input}; then "
        "echo 'index: error: it is wrong; mend it' > {log}; exit 2; fi; "
        "if [ {wildcards.name} = b ] && [ $(wc -l < b.tries) -lt 3 ]; then "
        "echo 'train: stopped by deadline after step 2 of 9' > {log}; exit 75; fi; touch {output}"
"""
SUBMIT = """#!/bin/bash
id=$(date +%s%N); if bash "$1" > "$id.said" 2>&1; then echo success; else echo failed; fi > "$id.status"; echo $id
"""
LOCAL = ("--executor", "local")


@pytest.fixture
def cluster(tmp_path) -> tuple[str, ...]:
    """Options of Snakemake for a cluster whose jobs run here, each in a Snakemake of its own."""
    submit = tmp_path / "submit"
    submit.write_text(SUBMIT)
    submit.chmod(0o755)
    status = tmp_path / "status"
    status.write_text('#!/bin/bash\ncat "$1.status"\n')
    status.chmod(0o755)
    commands = ("--cluster-generic-submit-cmd", str(submit), "--cluster-generic-status-cmd", str(status))
    return ("--executor", "cluster-generic", *commands, "--seconds-between-status-checks", "1", "--jobs", "2")


@pytest.mark.parametrize("where", ["cluster", "here"])
def test_a_user_error_has_one_attempt_and_a_stop_as_many_as_it_needs(tmp_path, cluster, where):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "settings").write_text("wrong")
    options = cluster if where == "cluster" else (*LOCAL, "--cores", "2")
    command = [sys.executable, "-m", "snakemake", "--retries", "4", "--keep-going", "--show-failed-logs", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def start() -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    def tries(name: str) -> int:
        return len((tmp_path / f"{name}.tries").read_text().splitlines())

    done = start()
    assert done.returncode != 0 and "index: error: it is wrong; mend it" in done.stdout + done.stderr
    assert (tries("a"), tries("b")) == (1, 3), done.stderr
    assert (tmp_path / "b.txt").exists() and not (tmp_path / "a.txt").exists()

    (tmp_path / "settings").write_text("mended")
    done = start()
    assert done.returncode == 0 and (tries("a"), tries("b")) == (2, 3), done.stderr


def test_the_workflow_tries_a_damaged_archive_once(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x05\x06" + bytes(18))  # a zip without members
    config = MICRO | {"data": {"dataset": "mine", "num_classes": 10, "zip": str(tmp_path / "images.zip")}}
    words = ["--configfile", write_config(tmp_path, config), "--retries", "4", "--until", "index"]
    done = snakemake(tmp_path, *words, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "index: error: " in said and "images.zip" in said
    assert "Trying to restart job" not in said


def test_what_may_pass_by_itself_is_worth_another_attempt(tmp_path):
    state = StateFolder(tmp_path)
    held = f"train: error: {state._hold._refusal()}"
    lost = "train: error: one of the 4 processes died; read its message above, then start the same command again"
    full = f"index: error: {Path('results')}: No space left on device; fix that and run again"
    assert not any(needs_fixing(line) for line in (held, lost, full, "", "train: stopped by deadline", "Killed"))
    assert needs_fixing("train: error: the loss is not finite at epoch 3; lower learning_rate")
