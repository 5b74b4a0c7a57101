"""The Slurm profile on a real Slurm: GPUs as resources, a time limit that is reached, a node that fails."""

import csv
import itertools
import json
import shutil
import time
from pathlib import Path

import pytest

from conftest import MARGIN_SECONDS, experiment, finish, seconds_per_epoch, start_snakemake

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def attempts(folder: Path) -> list[dict]:
    (path,) = (folder / "results/state").rglob("attempts.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def ends(folder: Path) -> list[dict]:
    return [line for line in attempts(folder) if line["event"] == "end"]


@pytest.fixture
def folder(demo_data, tmp_path) -> Path:
    """A working directory with the demo data indexed."""
    shutil.copytree(demo_data, tmp_path / "work", symlinks=True)
    return tmp_path / "work"


def test_the_chain_of_two_models_runs_with_gpus_granted_as_resources(slurm, tmp_path):
    config = experiment("chain", models=["RepVGG-A0", "RepVGG-B1g4"], epochs=1, runtime="10m")
    config["execution"]["train_by_model"] = {"RepVGG-B1g4": {**config["execution"]["train"], "gpu": 2}}
    config["memory"] = {"models": ["RepVGG-A0"]}
    finish(start_snakemake(slurm, tmp_path, config, "results/chain/accuracy.csv"), tmp_path)
    rows = list(csv.DictReader((tmp_path / "results/chain/accuracy.csv").open()))
    assert {(row["model"], row["form"]) for row in rows} == {
        (model, form) for model in ("RepVGG-A0", "RepVGG-B1g4") for form in ("train", "deploy")
    }
    granted = [job for job in slurm.jobs() if "gpu" in job.get("TresPerNode", "") + job.get("TresPerJob", "")]
    assert len(granted) == 2 and all(job["JobState"] == "COMPLETED" for job in granted), slurm.jobs()
    asked = {"RepVGG-A0": 1, "RepVGG-B1g4": 2}
    for path in (tmp_path / "results/state").rglob("attempts.jsonl"):
        start = json.loads(path.read_text().splitlines()[0])
        (job,) = [job for job in granted if job["JobId"] == start["slurm_job"]]
        assert start["gpus_granted"] == asked[path.parts[-4]] and start["device"] == "cpu"
        assert (job["NumNodes"], job["MinMemoryNode"], job["TimeLimit"]) == ("1", "3000M", "00:10:00")
    (measured,) = [job for job in slurm.jobs() if job["NumCPUs"] == "8"]
    assert measured["OverSubscribe"] == "NO", "what measures has a node of eight cores to itself"


def test_a_job_that_reaches_its_time_limit_stops_itself_and_continues(slurm, folder):
    """One minute per job, less the margin: a training of several such pieces, each with a checkpoint at its end.

    There are more epochs than this machine trains in one piece, however fast it is.
    """
    epochs = round(1.3 * (60 - MARGIN_SECONDS) / seconds_per_epoch(folder)) + 1
    config = experiment("limit", models=["RepVGG-A0"], epochs=epochs, runtime="1m")
    # More retries than the profile's ten: on a busy machine the pieces are short.
    finish(start_snakemake(slurm, folder, config, "--retries", "30", "--until", "train"), folder, 800)
    found = ends(folder)
    assert len(found) >= 2 and {line["reason"] for line in found[:-1]} == {"deadline"}
    assert found[-1]["reason"] == "finished"
    for before, after in itertools.pairwise(found):
        assert after["from_step"] == before["to_step"], "nothing is trained twice and nothing is left out"
    assert found[-1]["to_step"] == epochs * 46
    (history,) = (folder / "results/weights").rglob("history.csv")
    assert [int(row["epoch"]) for row in csv.DictReader(history.open())] == list(range(1, epochs + 1))
    assert not [job for job in slurm.jobs() if job["JobState"] == "TIMEOUT"], "the trainer is faster than the limit"


def test_after_a_node_failure_the_training_goes_on_elsewhere(slurm, folder):
    config = experiment("node", models=["RepVGG-A0"], epochs=30, runtime="10m")
    # A checkpoint every second: on a cluster every ten minutes.
    slurm.environment["REPVGG_COMPANION_CHECKPOINT_MINUTES"] = "0.02"
    try:
        process = start_snakemake(slurm, folder, config, "--until", "train")
        limit = time.monotonic() + 120
        while not list((folder / "results/state").rglob("checkpoint-*.safetensors")):
            assert process.poll() is None and time.monotonic() < limit, (folder / "snakemake.log").read_text()[-4000:]
            time.sleep(0.2)
        (job,) = [job for job in slurm.jobs() if job["JobState"] == "RUNNING"]
        node = job["NodeList"]
        slurm.tool("node-fail", node)
        try:
            finish(process, folder)
        finally:
            slurm.tool("node-up", node)
    finally:
        del slurm.environment["REPVGG_COMPANION_CHECKPOINT_MINUTES"]
    found = ends(folder)
    assert [line["reason"] for line in found] == ["killed", "finished"]
    assert 0 < found[1]["from_step"] <= found[0]["to_step"] < found[1]["to_step"] == 30 * 46
    starts = [line for line in attempts(folder) if line["event"] == "start"]
    assert starts[0]["slurm_job"] == starts[1]["slurm_job"], "Slurm ran it again under the same id"
    assert starts[0]["node"] == node != starts[1]["node"]
