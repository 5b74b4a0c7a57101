"""The Slurm profile on a real Slurm: GPUs as resources, a time limit that is reached, a node that fails."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from paused_training import paused_training

from conftest import MARGIN_SECONDS, experiment, finish, start_snakemake
from repvgg_companion.training.job.stop import parse_slurm_time

pytestmark = pytest.mark.slurm

EPOCHS, STEPS_PER_EPOCH = 12, 46


def attempts(folder: Path) -> list[dict]:
    (path,) = (folder / "results/state").rglob("attempts.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_chain_of_two_models_runs_with_gpus_granted_as_resources(slurm, chain):
    rows = list(csv.DictReader((chain / "results/chain/accuracy.csv").open()))
    assert {(row["model"], row["form"]) for row in rows} == {
        (model, form) for model in ("RepVGG-A0", "RepVGG-B1g4") for form in ("train", "deploy")
    }
    granted = [job for job in slurm.jobs() if "gpu" in job.get("TresPerNode", "") + job.get("TresPerJob", "")]
    assert len(granted) == 2 and all(job["JobState"] == "COMPLETED" for job in granted), slurm.jobs()
    asked = {"RepVGG-A0": 1, "RepVGG-B1g4": 2}
    for path in (chain / "results/state").rglob("attempts.jsonl"):
        start = json.loads(path.read_text().splitlines()[0])
        (job,) = [job for job in granted if job["JobId"] == start["slurm_job"]]
        assert start["gpus_granted"] == asked[path.parts[-4]] and start["device"] == "cpu"
        assert (job["NumNodes"], job["MinMemoryNode"], job["TimeLimit"]) == ("1", "3000M", "00:10:00")
    (measured,) = [job for job in slurm.jobs() if job["NumCPUs"] == "8"]
    assert measured["OverSubscribe"] == "NO", "what measures has a node of eight cores to itself"


def test_a_training_outlives_its_time_limit_and_its_node(slurm, folder):
    """The first job reaches its limit of one minute, the node of the second one fails; it ends on the other node."""
    config = experiment("limit", models=["RepVGG-A0"], epochs=EPOCHS, runtime="1m")
    process = start_snakemake(slurm, folder, config, "--until", "train")
    log = folder / "snakemake.log"
    pid = paused_training(folder, process, log.read_text)
    (job,) = [job["JobId"] for job in slurm.jobs() if job["JobState"] == "RUNNING"]
    while parse_slurm_time(slurm.call("squeue", "-h", "-j", job, "-o", "%L").strip()) >= MARGIN_SECONDS:
        time.sleep(0.5)
    os.kill(pid, signal.SIGCONT)

    while not (
        others := [one["JobId"] for one in slurm.jobs() if one["JobState"] == "RUNNING" and one["JobId"] != job]
    ):
        assert process.poll() is None, log.read_text()[-4000:]
        time.sleep(0.2)
    slurm.call("scontrol", "update", f"JobId={others[0]}", "TimeLimit=30")  # now only its node is to fail
    lines = attempts(folder)
    paused_training(folder, process, log.read_text, attempt=2, after_step=lines[1]["to_step"])
    (job,) = [job for job in slurm.jobs() if job["JobState"] == "RUNNING"]
    node = job["NodeList"]
    slurm.tool("node-fail", node)
    try:
        finish(process, folder)
    finally:
        slurm.tool("node-up", node)

    lines = attempts(folder)
    starts, ends = ([line for line in lines if line["event"] == event] for event in ("start", "end"))
    assert [line["reason"] for line in ends] == ["deadline", "killed", "finished"]
    assert 0 < ends[0]["to_step"] == ends[1]["from_step"], "nothing is trained twice and nothing is left out"
    assert ends[1]["from_step"] < ends[2]["from_step"] <= ends[1]["to_step"] < EPOCHS * STEPS_PER_EPOCH
    assert ends[-1]["to_step"] == EPOCHS * STEPS_PER_EPOCH
    (history,) = (folder / "results/weights").rglob("history.csv")
    assert [int(row["epoch"]) for row in csv.DictReader(history.open())] == list(range(1, EPOCHS + 1))
    assert not [job for job in slurm.jobs() if job["JobState"] == "TIMEOUT"], "the trainer is faster than the limit"
    assert starts[0]["slurm_job"] != starts[1]["slurm_job"] == starts[2]["slurm_job"], "Slurm ran it again itself"
    assert starts[1]["node"] == node != starts[2]["node"]


def test_a_user_error_is_submitted_once(slurm, tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x05\x06" + bytes(18))  # a zip without members
    config = experiment("wrong", models=["RepVGG-A0"], epochs=1, runtime="10m")
    config["data"] = {"dataset": "mine", "num_classes": 10, "zip": str(tmp_path / "images.zip")}
    before = {job["JobId"] for job in slurm.jobs()}
    process = start_snakemake(slurm, tmp_path, config, "--until", "index")
    assert process.wait(300) != 0
    said = (tmp_path / "snakemake.log").read_text()
    assert "index: error: " in said and "Trying to restart job" not in said
    assert len({job["JobId"] for job in slurm.jobs()} - before) == 1
