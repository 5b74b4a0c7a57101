"""What `make` shows of a run of Snakemake: one line a step, and of a failed one its log file and the end of that."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAKEFILE = """
rule all:
    input: "two.txt"
rule one:
    output: "one-{name}.txt"
    log: "logs/{name}.log"
    params: long="x" * 5000
    shell:
        "echo {params.long} > {output}; for n in $(seq 40); do echo line $n; done > {log}; "
        "[ {wildcards.name} != wrong ] || {{ echo 'index: error: it is wrong; mend it' | tee -a {log} >&2; exit 2; }}; "
        "[ {wildcards.name} != ended ] || echo 'train: stopped by SIGINT after step 2 of 9; start again' >> {log}; "
        "case {wildcards.name} in bad|ended) false;; slow) touch started; sleep 60;; esac"
rule two:
    input: expand("one-{name}.txt", name=config["names"].split("+"))
    output: "two.txt"
    shell: "cat {input} > {output}"
"""


@pytest.fixture
def run(tmp_path):
    def run(*words):
        (tmp_path / "Snakefile").write_text(SNAKEFILE)
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "steps", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={
            "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)})  # fmt: skip
        return done, (done.stdout + done.stderr).splitlines()

    return run


def test_a_run_shows_one_line_a_step_and_the_log_file_holds_the_rest(run, tmp_path):
    done, lines = run("--config", "names=a+b")
    assert done.returncode == 0, lines
    assert [line for line in lines if re.match(r"\[\d/4\] [\d:]+ one name=[ab]$", line)] == lines[1:3]
    assert lines[0] == "4 steps" and "[4/4] all steps are done" in lines
    assert max(map(len, lines)) < 250 and len(lines) <= 8
    (log,) = (tmp_path / ".snakemake" / "log").iterdir()
    assert "resources: tmpdir" in log.read_text() and "Select jobs to execute" in log.read_text()


def test_a_failed_step_is_named_with_its_log_and_the_last_lines_of_that(run):
    done, lines = run("--config", "names=bad")
    assert done.returncode == 1
    (at,) = [number for number, line in enumerate(lines) if line.startswith("failed: one ")]
    assert "one-bad.txt" in lines[at] and lines[at + 1] == "  the last lines of logs/bad.log:"
    assert lines[at + 2 : at + 14] == [f"    line {number}" for number in range(29, 41)]
    assert max(map(len, lines)) < 250


def test_the_sentence_of_a_user_error_is_said_once_and_nothing_follows_it(run):
    done, lines = run("--config", "names=wrong")
    assert done.returncode == 1 and sum("index: error: it is wrong" in line for line in lines) == 1, lines
    assert "  its log is logs/wrong.log" in lines
    assert not any(
        words in line for line in lines for words in ("WorkflowError", "At least one job", "Exiting because")
    )


def test_a_step_that_was_stopped_has_not_failed(run):
    done, lines = run("--config", "names=ended")
    assert done.returncode == 1
    (told,) = [line for line in lines if line.startswith("stopped: one ")]
    assert told.endswith("it continues where it was") and not any(line.startswith("failed") for line in lines)


def test_a_dry_run_points_at_no_reasons_above(run):
    done, lines = run("--config", "names=a", "--dry-run")
    assert done.returncode == 0 and "would run one name=a" in lines
    assert "Reasons:" in lines and not any("individual jobs above" in line for line in lines)


@pytest.mark.parametrize(
    "way", ["Ctrl-C", "Ctrl-C under make", "SIGTERM to Snakemake", "SIGTERM where Ctrl-C is ignored"]
)
def test_a_stop_is_told_without_failures(run, tmp_path, way):
    run("--config", "names=a", "--dry-run")  # writes the workflow
    start = "from repvgg_companion.experiment.termination import stop_on_sigterm\nonstart: stop_on_sigterm()\n"
    (tmp_path / "Snakefile").write_text(start + SNAKEFILE)
    background = ["bash", "-c", "trap '' INT; exec \"$@\"", "bash"] if "ignored" in way else []
    command = [*background, sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "steps"]
    command += ["--config", "names=slow"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True, env={
        "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path),
        **({"REPVGG_COMPANION_MAKE": "yes"} if "make" in way else {})})  # fmt: skip
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "one name=slow" in line and len(lines) < 5:
            # Before the step has begun a signal would be too early: it would run to its end.
            while process.poll() is None and not (tmp_path / "started").exists():
                time.sleep(0.05)
            if way.startswith("Ctrl-C"):
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.terminate()
    assert process.wait() != 0
    text = "".join(lines)
    told = "stopped: one name=slow" in text or "stopped: one for one-slow.txt" in text
    assert told != ("make" in way), "make tells the stop of all steps in one line"
    assert not any(
        words in text for words in ("failed", "Exception", "WorkflowError", "did not complete", "Terminating")
    )


def test_a_wrong_call_is_said(run):
    done, lines = run("--config", "other=1")
    assert done.returncode == 1 and any("names" in line for line in lines)
