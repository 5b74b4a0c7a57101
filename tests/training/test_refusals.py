"""User errors end with one sentence and a status that is not 0, and nothing is lost."""

import json
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from test_resume import wait_for_step

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.training import step as step_module
from repvgg_companion.training.job import holder as holder_module
from repvgg_companion.training.job.checkpoint import checkpoint_files
from repvgg_companion.training.job.stop import StopWatch, TimeLimits, parse_slurm_time


@pytest.fixture
def said(trainings, capsys):
    """Train in this process, which must fail with status 2 and one sentence; returns it."""

    def run(name, *options, **settings):
        capsys.readouterr()
        assert trainings.train_here(name, *options, **settings) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert not trainings.weights(name).exists()
        return lines[0]

    return run


@pytest.fixture
def stopped(trainings):
    """A training called `run` that was stopped in the middle."""
    process = trainings.start("run", "--checkpoint-steps", 1)
    assert wait_for_step(trainings, "run", process, 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, process.stderr.read()
    return {path: sha256_of_file(path) for path in trainings.state("run").glob("*.safetensors")}


def test_a_state_continues_only_the_training_it_belongs_to(trainings, said, stopped, small_digits, tmp_path):
    """Another recipe, model, seed or image set, one after the other, on the same state; its checkpoints stay."""
    assert "another recipe (learning_rate 0.02 -> 0.03)" in said("run", recipe={"learning_rate": 0.03})
    assert "model RepVGG-A0, not RepVGG-A1" in said("run", model="RepVGG-A1")
    assert "seed 0, not 1" in said("run", seed=1)
    shutil.copytree(small_digits, tmp_path / "other")
    from pyarrow import parquet

    from repvgg_companion.data.manifest import METADATA_KEY

    table = parquet.read_table(tmp_path / "other" / "val.parquet")
    facts = json.loads(table.schema.metadata[METADATA_KEY]) | {"sha256": "0" * 64}
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(facts)})
    parquet.write_table(table, tmp_path / "other" / "val.parquet")
    here, trainings.data = trainings.data, tmp_path / "other"
    assert "other images; give the changed images a data.dataset of their own" in said("run")
    trainings.data = here
    assert {path: sha256_of_file(path) for path in trainings.state("run").glob("*.safetensors")} == stopped


def test_other_images_are_noticed_also_where_only_publishing_is_left(trainings, said, small_digits, tmp_path):
    assert trainings.train_here("run") == 0
    trainings.weights("run").unlink()
    shutil.copytree(small_digits, tmp_path / "other")
    shutil.copy(small_digits / "train.parquet", tmp_path / "other" / "val.parquet")
    trainings.data = tmp_path / "other"
    assert "other images" in said("run")


def test_a_second_trainer_is_told_who_trains(trainings, said):
    process = trainings.start("run", recipe={"epochs": 400})
    assert wait_for_step(trainings, "run", process, 1)
    sentence = said("run", recipe={"epochs": 400})
    assert f"is being trained by process {process.pid} on " in sentence and "since" in sentence
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75


def test_damaged_final_weights_are_not_published(trainings, said):
    assert trainings.train_here("run") == 0
    trainings.weights("run").unlink()
    path = trainings.state("run") / "final.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "missing or damaged" in said("run")
    path.unlink()
    assert "missing or damaged" in said("run")


@pytest.mark.parametrize(
    ("options", "settings", "words"),
    [
        (("--num-classes", 11), {}, "has 10 classes, not 11"),
        ((), {"recipe": {"packed": "short32-q90"}}, "is not a packed copy, but the recipe"),
        ((), {"recipe": {"packed": "small"}}, "instead of short side and JPEG quality"),
        ((), {"recipe": {"global_batch_size": 512, "batch_norm_batch_size": 512}}, "larger than the training set"),
        ((), {"recipe": {"global_batch_size": 33}}, "not a multiple of batch_norm_batch_size"),
        ((), {"recipe": {"validation": "center16"}}, "not an evaluation protocol"),
        ((), {"model": "RepVGG-A9"}, "the nearest names are"),
        (("--deadline", 0.01), {}, "give the job more minutes"),
    ],
)
def test_what_cannot_be_met(said, options, settings, words):
    assert words in said("run", *options, **settings)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(trainings, said, monkeypatch):
    real = step_module.Learner.step

    def spoiled(self, images, labels, *, step, sums, **rest):
        real(self, images, labels, step=step, sums=sums, **rest)
        if step == 12:
            sums.loss.add_(float("nan"))

    monkeypatch.setattr(step_module.Learner, "step", spoiled)
    sentence = said("run", "--checkpoint-steps", 4)
    assert "not finite at epoch 2, step 3 of 10 (optimizer step 13)" in sentence
    assert [file.step for file in checkpoint_files(trainings.state("run"))] == [12, 8]
    assert trainings.attempts("run")[-1]["reason"] == "error"
    monkeypatch.undo()
    assert trainings.train_here("run") == 0
    assert trainings.attempts("run")[-2]["from_step"] == 12


def test_weights_that_are_not_finite_never_become_a_checkpoint(trainings, said, monkeypatch):
    real = step_module.Learner.step

    def spoiled(self, images, labels, *, step, **rest):
        real(self, images, labels, step=step, **rest)
        if step == 7:
            with torch.no_grad():
                next(self.network.parameters())[0] = float("inf")

    monkeypatch.setattr(step_module.Learner, "step", spoiled)
    assert "is not finite after optimizer step 8 (epoch 1)" in said("run", "--checkpoint-steps", 4)
    assert [file.step for file in checkpoint_files(trainings.state("run"))] == [4]


def test_a_checkpoint_of_another_training_is_refused(trainings, said, stopped):
    """Same network, so that every tensor would fit; it is neither used nor removed."""
    process = trainings.start("other", "--checkpoint-steps", 1, seed=1)
    assert wait_for_step(trainings, "other", process, 6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    foreign = checkpoint_files(trainings.state("other"))[0]
    moved = trainings.state("run") / foreign.path.name.replace(f"{foreign.step:09d}", "000000019")
    shutil.copy(foreign.path, moved)
    assert "belongs to another training (seed 1, not 0)" in said("run")
    assert moved.exists() and all(path.exists() for path in stopped)


def test_a_damaged_state_is_one_sentence(trainings, said, stopped):
    (trainings.state("run") / "state.json").write_text("{")
    assert "state.json is damaged; restore it from a backup, or move" in said("run")
    assert all(path.exists() for path in stopped)


def test_a_full_disk_keeps_the_checkpoint_before(trainings, said, monkeypatch):
    """The writer's own sentence for a full disk, at the third checkpoint and in the log."""
    import safetensors.torch
    from safetensors import SafetensorError

    real, written = safetensors.torch.save_file, []

    def full(tensors, path, **rest):
        if len(written) == 2:
            Path(path).write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        written.append(path)
        real(tensors, path, **rest)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    assert "the disk is full while writing" in said("run", "--checkpoint-steps", 4)
    assert [file.step for file in checkpoint_files(trainings.state("run"))] == [8, 4]
    assert not list(trainings.state("run").glob(".*"))
    monkeypatch.undo()
    assert trainings.train_here("run") == 0
    assert trainings.attempts("run")[-2]["from_step"] == 8


def test_a_holder_on_another_host_counts_while_its_heartbeat_moves(trainings, said, stopped, monkeypatch):
    """If a shared file system keeps locks within a host, the lock seems free, but the heartbeat moves."""
    monkeypatch.setattr(holder_module, "ELSEWHERE_SECONDS", 1.0)
    holder = {"pid": 1, "host": "elsewhere", "since": "2026", "slurm_job": None}
    (trainings.state("run") / "holder.json").write_text(json.dumps(holder))
    beating = threading.Event()

    def beat():
        step = 100
        while not beating.wait(0.05):
            (trainings.state("run") / "heartbeat").write_text(f"9 {step} {time.time()} -")
            step += 1

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert "is being trained by process 1 on elsewhere" in said("run")
    finally:
        beating.set()
        thread.join()
    assert trainings.train_here("run") == 0, "a holder without a heartbeat is dead"


def test_out_of_memory_names_the_batch_that_would_fit(said, monkeypatch):
    from repvgg_companion.models.repvgg import RepVGG

    real = RepVGG.forward

    def limited(self, images):
        if self.training and len(images) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, images)

    monkeypatch.setattr(RepVGG, "forward", limited)
    sentence = said("run")
    assert "out of memory on cpu with batch_norm_batch_size 32 at 16 px; 8 would fit" in sentence


def test_out_of_memory_elsewhere_is_one_sentence(said, monkeypatch):
    """In validation, whose batch no recipe sets; in the probe of memory formats the training goes on without it."""
    from repvgg_companion.models.repvgg import RepVGG
    from repvgg_companion.training import decide

    real = RepVGG.forward

    def limited(self, images):
        if not self.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, images)

    def probe(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(RepVGG, "forward", limited)
    monkeypatch.setattr(decide, "probe_memory_formats", probe)
    assert "out of memory on cpu outside a training step" in said("run", recipe={"memory_format": "auto"})


def test_a_deadline_stops_with_a_checkpoint_and_the_next_attempt_goes_on_from_it(trainings):
    """`--deadline` counts from the start of the process; the margin is what the way out needs."""
    reached = 0
    for _ in range(2):
        said = trainings.train("run", "--deadline", 0.15, "--deadline-margin", 4, recipe={"epochs": 1000}, status=75)
        assert "stopped by deadline after step" in said
        last = trainings.attempts("run")[-1]
        assert last["reason"] == "deadline" and last["from_step"] == reached < last["to_step"]
        reached = last["to_step"]
        assert checkpoint_files(trainings.state("run"))[0].step == reached


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45", 45),
        ("1:30", 90),
        ("59:59", 3599),
        ("2:00:00", 7200),
        ("1-00:00:00", 86400),
        ("2-03", 183600),
        ("1-02:30", 95400),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_slurms_time_left(text, seconds):
    assert parse_slurm_time(text) == seconds


def test_slurm_is_asked_and_an_extended_limit_is_noticed(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$3" = 77 ] && cat "$(dirname "$0")/left"\n')
    squeue.chmod(0o755)
    (tmp_path / "left").write_text("10:00\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    watch = StopWatch(TimeLimits(margin_s=20, scheduler_minutes=600))
    assert watch.reason() is None and 300 < watch.seconds_left() < 580
    watch.end = time.monotonic() - 1
    (tmp_path / "left").write_text("1:00:00\n")
    assert watch.reason() is None and watch.seconds_left() > 3000
    watch.end = time.monotonic() - 1
    (tmp_path / "left").write_text("0:00\n")
    assert watch.reason() == "deadline"
    with pytest.raises(CompanionError, match="give the job more minutes"):
        StopWatch(TimeLimits(margin_s=60))


def test_another_schedulers_limit_counts_if_slurm_has_none(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    passed = 600 * 60 - StopWatch(TimeLimits(margin_s=0, scheduler_minutes=600)).seconds_left()
    assert 0 < passed < 3600, "the time since the process started is gone"
    assert StopWatch(TimeLimits(30, 0, 600)).seconds_left() < 30 * 60
