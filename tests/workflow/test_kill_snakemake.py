"""Snakemake itself is killed while a training runs: nothing is lost and nothing is trained twice."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repvgg_companion.files import sha256_of_file

from .conftest import MICRO, ROOT, snakemake, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = copy.deepcopy(MICRO)
CONFIG["recipes"]["micro-1-epoch"]["epochs"] = 12
CONFIG["training"] = [{"models": ["RepVGG-A0"], "recipe": "micro-1-epoch", "width": 0.0625}]
STEPS = 12 * 46


def weights(folder: Path) -> list[Path]:
    return list((folder / "results/weights").rglob("train.safetensors"))


def attempts(folder: Path) -> list[dict]:
    paths = list((folder / "results/state").rglob("attempts.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    snakemake(folder, "--configfile", write_config(folder, CONFIG), "--until", "train")
    (path,) = weights(folder)
    return sha256_of_file(path)


def start(folder: Path) -> subprocess.Popen:
    """Snakemake in a session of its own, with a checkpoint every second."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "REPVGG_COMPANION_CHECKPOINT_MINUTES": "0.01"}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
         "--cores", "1", "--configfile", write_config(folder, CONFIG), "--until", "train"],
        env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def wait_for_checkpoint(folder: Path, process: subprocess.Popen, after: int) -> None:
    limit = time.monotonic() + 200
    while True:
        found = [
            int(path.name.split("-")[1]) for path in (folder / "results/state").rglob("checkpoint-*-*.safetensors")
        ]
        if found and max(found) > after:
            return
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)


def trainer(folder: Path) -> int:
    (path,) = (folder / "results/state").rglob("holder.json")
    return json.loads(path.read_text())["pid"]


def end(folder: Path, undisturbed: str, kills: int) -> None:
    """Unlock, run again, and compare."""
    config = write_config(folder, CONFIG)
    snakemake(folder, "--configfile", config, "--unlock")
    snakemake(folder, "--configfile", config, "--until", "train")
    (path,) = weights(folder)
    assert sha256_of_file(path) == undisturbed
    ends = [line for line in attempts(folder) if line["event"] == "end"]
    assert ends[-1]["to_step"] == STEPS
    assert sum(line["to_step"] - line["from_step"] for line in ends) <= STEPS * (1 + 0.2 * kills)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_everything_is_killed_at_once(tmp_path, undisturbed, number):
    """A power failure, a closed session, Ctrl-C: the signal goes to Snakemake and all that it started."""
    process, reached = start(tmp_path), 0
    wait_for_checkpoint(tmp_path, process, 0)
    os.killpg(process.pid, number)
    process.wait(120)
    assert process.returncode != 0 and not weights(tmp_path)
    reached = max(line.get("to_step", 0) for line in attempts(tmp_path))
    if number != signal.SIGKILL:
        assert 0 < reached < STEPS
    end(tmp_path, undisturbed, 1)
    starts = [line for line in attempts(tmp_path) if line["event"] == "start"]
    assert len(starts) == 2 and starts[1]["from_step"] > 0


def test_only_snakemake_is_killed_and_its_training_runs_on(tmp_path, undisturbed):
    """The orphan holds its state: a second training of the same model is refused, and waits for nobody to overwrite."""
    process = start(tmp_path)
    wait_for_checkpoint(tmp_path, process, 0)
    orphan = trainer(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    os.kill(orphan, 0)  # still there
    config = write_config(tmp_path, CONFIG)
    snakemake(tmp_path, "--configfile", config, "--unlock")
    done = snakemake(tmp_path, "--configfile", config, "--until", "train", check=False)
    if any(line["event"] == "end" for line in attempts(tmp_path)):
        pytest.skip("the orphan was faster than the second Snakemake")
    assert done.returncode != 0 and f"is being trained by process {orphan}" in done.stdout + done.stderr
    limit = time.monotonic() + 300
    while not any(line["event"] == "end" for line in attempts(tmp_path)):
        assert time.monotonic() < limit
        time.sleep(0.2)
    time.sleep(2)
    end(tmp_path, undisturbed, 0)
    assert len([line for line in attempts(tmp_path) if line["event"] == "start"]) == 1, "nothing was trained twice"
