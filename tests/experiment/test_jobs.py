"""Work carried to a machine without Snakemake and back."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from digits_experiment import digits_experiment
from paused_training import paused_training

from repvgg_companion.__main__ import main
from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.adopt import plan_adoption
from repvgg_companion.experiment.jobs import parse_dry_run, planned_jobs, script

ROOT = Path(__file__).resolve().parents[2]
CONFIG = digits_experiment("carried", epochs=3, training={"seeds": [0, 1]})
STEPS = 3 * 46
DRY_RUN = """Building DAG of jobs...
[Sun Nov 22 22:39:19 2026]
rule index:
    input: a.tar
    output: results/train.parquet, results/val.parquet
Shell command: python -m repvgg_companion index --dataset 'my set' --output results

[Sun Nov 22 22:39:20 2026]
localrule all:
    input: results/train.parquet
[Sun Nov 22 22:39:20 2026]
rule train:
    output: w.safetensors
    reason: Missing output files: w.safetensors
Shell command: python -m repvgg_companion train --recipe '{"epochs":1}' --output w.safetensors

Job stats:
"""


def test_a_dry_run_is_read_with_outputs_and_quoted_words():
    jobs = parse_dry_run(DRY_RUN)
    assert [(job.rule, job.verb, job.outputs) for job in jobs] == [
        ("index", "index", ("results/train.parquet", "results/val.parquet")),
        ("train", "train", ("w.safetensors",)),
    ]
    assert jobs[0].inputs == ("a.tar",) and jobs[1].inputs == ()
    assert jobs[0].command[5] == "my set" and jobs[1].command[5] == '{"epochs":1}'


def test_the_script_skips_what_is_done_and_stops_where_a_training_was_stopped(tmp_path):
    """Run by bash with a stand-in for Python that makes outputs, fails, or is interrupted."""
    fake = tmp_path / "fake"
    answers = 'case "$4" in index) touch results_a results_b;; x) exit 3;; train) exit 75;; esac'
    fake.write_text(f'#!/bin/bash\necho "$4" >> calls\n{answers}\n')
    fake.chmod(0o755)
    text = script(
        parse_dry_run(
            "[Sun Nov 22 1 2026]\nrule i:\n    output: results_a, results_b\nShell command: python -m p index\n"
            "[Sun Nov 22 1 2026]\nrule x:\n    output: never\nShell command: python -m p x\n"
            "[Sun Nov 22 1 2026]\nrule t:\n    output: w\nShell command: python -m p train\n"
            "[Sun Nov 22 1 2026]\nrule l:\n    output: l\nShell command: python -m p later\n"
        ),
        "config/x.yaml",
    )
    (tmp_path / "jobs.sh").write_text(text.replace('"$PYTHON" "$@"', '"$PYTHON" _ "$@"'))
    for round_ in (1, 2):
        done = subprocess.run(
            ["bash", str(tmp_path / "jobs.sh")], env=os.environ | {"PYTHON": str(fake)}, capture_output=True, text=True
        )
        assert done.returncode == 75, done.stderr
        assert ("done already: results_a results_b" in done.stdout) == (round_ == 2)
        assert "failed with status 3" in done.stderr and "start the script again" in done.stdout
    assert (tmp_path / "calls").read_text().split() == ["index", "x", "train", "x", "train"]


HIDDEN = """
import sys
from importlib.machinery import PathFinder
HIDDEN = {"pydantic", "pydantic_core", "pandas", "yaml", "snakemake", "matplotlib", "seaborn", "jinja2"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""


@dataclass
class Bare:
    """A machine that has no more than the verbs that measure and train need; what the script names was copied to it."""

    folder: Path

    def fetch(self, here: Path) -> list[str]:
        """Copy what the head of the script in `here` lists; returns it."""
        head = (here / "jobs-carried.sh").read_text().split("set -uo")[0]
        listed = [line.removeprefix("#   ") for line in head.splitlines() if line.startswith("#   ")]
        assert listed[:2] == ["this script", "src/"]
        self.folder.mkdir()
        shutil.copy(here / "jobs-carried.sh", self.folder)
        shutil.copytree(ROOT / "src", self.folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        files = [path for path in listed[2:] if not path.startswith("python -m")]
        for path in files:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (here / path).is_dir() else shutil.copy
            copy(here / path, self.folder / path)
        return files

    def start(self) -> subprocess.Popen:
        hidden, python = self.folder / "hidden", self.folder / "bare-python"
        hidden.mkdir(exist_ok=True)
        (hidden / "sitecustomize.py").write_text(HIDDEN)
        python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{hidden}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.Popen(
            ["bash", str(self.folder / "jobs-carried.sh")],
            env=environment | {"PYTHON": str(python), "REPVGG_COMPANION_CHECKPOINT_STEPS": "8"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def stop_a_training(self) -> str:
        """Start the script, stop it once a training has a checkpoint; returns what it said."""
        process = self.start()
        pid = paused_training(self.folder, process, lambda: "" if process.poll() is None else process.communicate()[0])
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 75, said
        return said

    def finish(self) -> None:
        process = self.start()
        said, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, said


def attempts(folder: Path) -> dict[str, list[dict]]:
    """The ends of the attempts of each training, by its seed."""
    logs = folder.glob("results/state/*/*/*/*/attempts.jsonl")
    lines = {path.parent.name: [json.loads(line) for line in path.read_text().splitlines()] for path in logs}
    return {seed: [line for line in found if line["event"] == "end"] for seed, found in lines.items()}


def test_the_whole_paper_is_written_with_the_gpus_that_are_asked_for(tmp_path, monkeypatch, capsys):
    """Without the archives, and on a machine whose default profile grants fewer GPUs."""
    monkeypatch.chdir(tmp_path)
    assert main(["jobs", str(ROOT / "config/imagenet.yaml")]) == 0
    assert "38 of them trainings" in capsys.readouterr().out
    text = (tmp_path / "jobs-imagenet.sh").read_text()
    assert text.count("--gpus 8 ") == 38 and "#   data/ILSVRC2012_img_train.tar\n" in text
    assert subprocess.run(["bash", "-n", str(tmp_path / "jobs-imagenet.sh")]).returncode == 0
    assert main(["jobs", str(ROOT / "config/imagenet.yaml"), "--gpus", "4"]) == 0
    assert (tmp_path / "jobs-imagenet.sh").read_text().count("--gpus 4 ") == 38


@pytest.mark.slow
def test_work_goes_to_a_machine_without_snakemake_and_back(tmp_path, monkeypatch, capsys):
    """The whole way, stopped once on each side: nothing is trained twice, and what was tampered with is refused."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "carried.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    monkeypatch.chdir(here)
    assert main(["jobs", "carried.yaml"]) == 0
    assert "2 of them trainings" in capsys.readouterr().out
    first = Bare(tmp_path / "first")
    assert first.fetch(here) == ["results/carried/experiment.json"]
    assert "start the script again" in first.stop_a_training()
    # A training that is half done comes back, and the script for the next machine takes its state along.
    assert main(["adopt", str(first.folder)]) == 0
    ((seed, (half,)),) = attempts(here).items()
    assert half["reason"] == "SIGTERM" and 0 < half["to_step"] < STEPS
    assert main(["jobs", "carried.yaml"]) == 0
    second = Bare(tmp_path / "second")
    assert [path for path in second.fetch(here) if "/state/" in path] == [
        str(next(here.glob("results/state/*/*/*/*")).relative_to(here))
    ]
    second.finish()
    found = attempts(second.folder)
    assert len(found) == 2 and found[seed][-1]["from_step"] == half["to_step"]
    assert all(ends[-1]["to_step"] == STEPS for ends in found.values())

    with pytest.raises(CompanionError, match="the same one at step"):
        plan_adoption(second.folder / "results", here / "results")
    # As the sentence says; here the other one is known to have gone on from ours.
    (state,) = here.glob("results/state/*/*/*/*")
    shutil.move(state, tmp_path / "moved-away")

    empty = tmp_path / "empty"
    for pattern, said in TAMPERED.items():
        path = sorted((second.folder / "results").glob(pattern))[0]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[-1 if path.suffix != ".csv" else -3] ^= 1
        path.write_bytes(bad)
        with pytest.raises(CompanionError, match=said):
            plan_adoption(second.folder / "results", empty)
        path.write_bytes(good)
    dataset = empty / "data/demo-digits/dataset.json"
    dataset.parent.mkdir(parents=True)
    dataset.write_text(json.dumps({"dataset_sha256": "0" * 64}))
    with pytest.raises(CompanionError, match="trained on other images"):
        plan_adoption(second.folder / "results", empty)
    assert [path for path in empty.rglob("*") if path.is_file()] == [dataset], "nothing is copied where a check fails"

    assert main(["adopt", str(second.folder)]) == 0
    left = {job.verb for job in planned_jobs("carried.yaml")} - {""}
    assert left == {"collect", "cards", "tables", "figures", "claims", "provenance", "report"}, "only cheap rules"
    assert main(["adopt", str(second.folder)]) == 0
    assert "adopted 0 files" in capsys.readouterr().out.splitlines()[-1]
    assert main(["jobs", "carried.yaml"]) == 0
    assert "no job is left for another machine" in capsys.readouterr().out


TAMPERED = {
    "weights/*/*/*/*/deploy.safetensors": "refers to weights of RepVGG-A0 with SHA-256",
    "weights/*/*/*/*/train.safetensors": "differs from what was trained",
    "weights/*/*/*/*/history.csv": "differs from what was trained",
    "state/*/*/*/*/final.safetensors": "is missing or damaged",
    "carried/predictions/*.parquet": "is not readable",
}


def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "carried.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "mine.sh").write_text("echo mine\n")
    (tmp_path / "empty").mkdir()
    for words, said in (
        (["jobs", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["jobs", "carried.yaml", "--output", "mine.sh"], "mine.sh exists and is not a script of `jobs`"),
        (["jobs", "carried.yaml", "--gpus", "-1"], "--gpus is -1"),
        (["adopt", "nowhere"], "nowhere is not a folder"),
        (["adopt", "mine.sh"], "mine.sh is not a folder"),
        (["adopt", "empty"], "holds no states, weights or rows"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert (tmp_path / "mine.sh").read_text() == "echo mine\n"
    assert not (tmp_path / "results").exists() and not (tmp_path / "jobs-carried.sh").exists()
