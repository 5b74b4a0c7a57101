"""Any number of processes gives the same training; batch norm sees the recipe's micro-batches; GPUs are not shared."""

import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import wait_for_step
from torch import nn
from training_environment import clean_environment

from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.models.build import build_model
from repvgg_companion.training import gradients
from repvgg_companion.training.job.launch import granted_gpus, held_gpus
from repvgg_companion.training.job.processes import ProcessGroup, join
from repvgg_companion.training.optimizer import Sgd, parameter_groups
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner, StepSums
from repvgg_companion.training.validate import Validation, count_right_answers

ON_CPU = {"precision": "fp32", "memory_format": "contiguous", "threads": 1}
SHARED = {"global_batch_size": 64, "batch_norm_batch_size": 8}


def small_learner(recipe, network=None, *, group=None):
    torch.manual_seed(3)
    network = network or build_model("RepVGG-A0", num_classes=4, width=0.0625)
    return Learner(network, recipe.decided(ON_CPU), group or ProcessGroup(torch.device("cpu")), num_classes=4, seed=0)


def batch(size, px=16):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (size, 3, px, px), dtype=torch.uint8, generator=generator)
    return images, torch.arange(size) % 4


def compare(trainings, one, many, epochs=2):
    """Weights and validation are the same bit for bit; the mean loss up to the order of its sum."""
    rows = [list(csv.DictReader(trainings.history(name).open())) for name in (one, many)]
    assert len(rows[0]) == len(rows[1]) == epochs
    for ours, theirs in zip(*rows, strict=True):
        assert float(theirs["train_loss"]) == pytest.approx(float(ours["train_loss"]), rel=1e-6)
        assert theirs["val_top1_pct"] == ours["val_top1_pct"]
        assert theirs["train_top1_pct"] == ours["train_top1_pct"]
    assert sha256_of_file(trainings.weights(one)) == sha256_of_file(trainings.weights(many))
    tensors = load_file(trainings.weights(many))
    tracked = {name: int(tensor) for name, tensor in tensors.items() if name.endswith("num_batches_tracked")}
    assert tracked and set(tracked.values()) == {5 * epochs}, "running statistics are updated once per optimizer step"


def test_two_processes_train_like_one(trainings):
    recipe = SHARED
    assert trainings.train_here("one", recipe=recipe) == 0
    trainings.train("two", "--processes", 2, recipe=recipe)
    assert trainings.attempts("two")[0]["processes"] == 2
    compare(trainings, "one", "two")


@pytest.mark.slow
def test_four_processes_train_like_one(trainings):
    recipe = SHARED
    assert trainings.train_here("one", recipe=recipe) == 0
    trainings.train("four", "--processes", 4, recipe=recipe)
    compare(trainings, "one", "four")


def ranks(trainings, name):
    """The processes of a running training: the leading one, and the others."""
    leading = json.loads((trainings.state(name) / "holder.json").read_text())["pid"]
    launcher = Path(f"/proc/{leading}/stat").read_text().rsplit(")", 1)[1].split()[1]
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return leading, [int(pid) for pid in children if int(pid) != leading]


def test_processes_stop_together_die_together_and_any_number_continues_with_the_same_bits(trainings):
    """Two processes are asked to stop, one of two is killed, one alone continues; then torchrun publishes."""
    recipe = {**SHARED, "epochs": 6}
    assert trainings.train_here("whole", recipe=recipe) == 0
    process = trainings.start("stopped", "--processes", 2, "--checkpoint-steps", 1, recipe=recipe)
    assert wait_for_step(trainings, "stopped", process, 7)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert said.count("stopped by SIGTERM after step") == 2 and "Traceback" not in said and "W1" not in said
    assert not trainings.weights("stopped").exists()

    process = trainings.start("stopped", "--processes", 2, "--checkpoint-steps", 1, recipe=recipe)
    assert wait_for_step(trainings, "stopped", process, 12)
    os.kill(ranks(trainings, "stopped")[1][0], signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2, said
    assert "process 1 (counted from 0) of 2 was ended by SIGKILL" in said and "Traceback" not in said

    assert trainings.train_here("stopped", recipe=recipe) == 0
    starts = [line for line in trainings.attempts("stopped") if line["event"] == "start"]
    assert [line["processes"] for line in starts] == [2, 2, 1]
    assert 7 <= starts[1]["from_step"] < starts[2]["from_step"]
    compare(trainings, "whole", "stopped", epochs=6)

    digest = sha256_of_file(trainings.weights("stopped"))
    trainings.weights("stopped").unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["repvgg_companion", *trainings.arguments("stopped", recipe=recipe)]
    subprocess.run(command, env=clean_environment(), check=True, timeout=120, capture_output=True)
    assert sha256_of_file(trainings.weights("stopped")) == digest


def test_batch_norm_sees_the_micro_batch_and_statistics_come_from_the_first():
    """Compared with the definition: each micro-batch normalised by itself, gradients averaged, one update."""
    recipe = Recipe(epochs=1, global_batch_size=24, batch_norm_batch_size=8, input_px=16)
    learner = small_learner(recipe)
    reference = copy.deepcopy(learner.network)
    images, labels = batch(24)
    loss, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    learner.step(images, labels, step=0, rate=0.1, sums=StepSums(loss, hits))

    norms = [module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)]
    statistics, losses = None, []
    for part in range(3):
        logits = reference(normalize(images[part * 8 : part * 8 + 8], device="cpu"))
        part_loss = nn.functional.cross_entropy(logits, labels[part * 8 : part * 8 + 8])
        (part_loss / 3).backward()
        losses.append(part_loss.item())
        if part == 0:
            statistics = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    Sgd(parameter_groups(reference, recipe), recipe).step(0.1)
    assert float(loss) == pytest.approx(sum(losses) / 3, rel=1e-5)
    for (name, ours), theirs in zip(learner.network.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)
    found = [module for module in learner.network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm, (mean, variance) in zip(found, statistics, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)
        assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize("overlaps", [True, False])
def test_gradient_buckets_hold_what_backward_gives(monkeypatch, overlaps):
    """With many small buckets, channels-last kernels and a parameter that gets no gradient; all processes the same."""
    exchanged = []

    def all_gather(parts, bucket, async_op):
        exchanged.append(bucket)
        for part in parts:
            part.copy_(bucket)
        return Done()

    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    network.register_parameter("unused", nn.Parameter(torch.ones(5)))
    network = network.to(memory_format=torch.channels_last)
    reference = copy.deepcopy(network)
    parameters = list(network.parameters())
    buckets = gradients.GradientBuckets(parameters, size=4, bucket_bytes=400)
    tree = gradients.GradientTree(parameters)
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        exchanged.clear()
        network.zero_grad()
        reference.zero_grad()
        if overlaps:
            buckets.exchange_during_backward()
        for part in range(1 if overlaps else 3):
            network(images + part).square().mean().backward()
            reference(images + part).square().mean().backward()
            if not overlaps:
                assert not exchanged, "gradients are exchanged once, after the last micro-batch"
                tree.take()
        if overlaps:
            assert exchanged, "the exchange starts while backward runs"
        else:
            tree.finish()
        buckets.finish()
        assert len(exchanged) == len(buckets.buckets) > 2
        assert len({bucket.data_ptr() for bucket in exchanged}) == len(exchanged)
        for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
            wanted = torch.zeros_like(ours) if theirs.grad is None else 4 * theirs.grad
            torch.testing.assert_close(ours.grad, wanted)
            assert ours.grad.stride() == ours.stride()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_tree_adds_in_pairs(count):
    """Checked on numbers whose float32 sum depends on the order."""
    values = [torch.tensor([10.0 ** (place % 5) / 3], dtype=torch.float32) for place in range(count)]
    parameter = nn.Parameter(torch.zeros(1))
    tree = gradients.GradientTree([parameter])
    for value in values:
        parameter.grad = value.clone()
        tree.take()
    tree.finish()

    def paired(items):
        if len(items) == 1:
            return items[0]
        half = 1 << (len(items) - 1).bit_length() - 1  # the largest power of two below the length
        return paired(items[:half]) + paired(items[half:])

    assert torch.equal(parameter.grad, paired(values))


class Done:
    def wait(self):
        return True


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_validation_counts_every_image_once(small_digits, size, monkeypatch):
    """The network always answers class 0; the sum over any number of processes is the exact number of such labels."""
    from repvgg_companion.training import validate

    monkeypatch.setattr(validate, "BATCH_IMAGES", 30)  # 100 images: 4 batches, the last one smaller
    manifest = Manifest.read(small_digits / "val.parquet")
    seen = []

    class AlwaysZero(nn.Module):
        def forward(self, images):
            seen.append(images.sum((1, 2, 3)))
            return torch.eye(10)[torch.zeros(len(images), dtype=torch.int64)]

    calls = []
    protocol = EvaluationProtocol.parse("resize16-crop16-bilinear-pillow")
    validation = Validation(manifest, protocol, workers=0, undecodable="stop")
    recipe = Recipe(epochs=1).decided(ON_CPU)
    right = sum(
        count_right_answers(
            AlwaysZero(), validation, recipe, Alone(torch.device("cpu"), rank, size), lambda: calls.append(1)
        )
        for rank in range(size)
    )
    assert right == int((manifest.labels == 0).sum())
    assert sum(map(len, seen)) == len(manifest) and len(calls) == size * -(-4 // size)


class Alone(ProcessGroup):
    """One process of several; the test sums over them."""

    def sum(self, tensor):
        return tensor


def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        CompanionError, match=r"3 processes cannot share the 8 micro-batches .* start 1, 2, 4, 8 of them"
    ):
        join("cpu", 8)


HOLD = """
import sys, time
from repvgg_companion.training.job.launch import held_gpus
from pathlib import Path
with held_gpus(int(sys.argv[2]), ["GPU-a", "GPU-b", "GPU-c"], Path(sys.argv[1])) as gpus:
    print(*gpus, flush=True)
    time.sleep(60)
"""


def hold(folder, count):
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(count)],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_jobs_get_disjoint_gpus_and_a_dead_one_frees_its_own(tmp_path):
    first = hold(tmp_path, 2)
    mine = first.stdout.readline().split()
    with held_gpus(1, ["GPU-a", "GPU-b", "GPU-c"], tmp_path) as rest:
        assert len(mine) == 2 and not set(mine) & set(rest)
        third = hold(tmp_path, 2)
        assert "waiting for 2 free GPUs of 3" in third.stderr.readline()
        first.kill()
        first.wait()
        theirs = third.stdout.readline().split()
        assert set(theirs) == set(mine)
        third.kill()
        third.wait()


def test_more_gpus_than_there_are_is_refused_at_once(tmp_path, monkeypatch):
    with (
        pytest.raises(CompanionError, match="3 GPUs were asked for, but this machine shows 2"),
        held_gpus(3, ["GPU-a", "GPU-b"], tmp_path),
    ):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(CompanionError, match="Slurm granted 1 GPUs, not 2"), granted_gpus(2):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--device", "cuda"), "torch sees no GPU"),
        (("--device", "auto", "--gpus", "1"), "1 GPUs were asked for, but this machine shows 0"),
    ],
)
def test_a_gpu_that_is_not_there_is_one_sentence(trainings, option, sentence, capsys):
    assert trainings.train_here("run", *option) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert not trainings.weights("run").exists()


def test_the_heartbeat_and_log_name_processes_and_threads(trainings):
    assert trainings.train_here("run") == 0
    start, end = trainings.attempts("run")
    assert (start["processes"], start["threads"], start["device"]) == (1, 1, "cpu")
    assert (end["from_step"], end["to_step"], end["reason"]) == (0, 20, "finished")
    assert start["pid"] == os.getpid() and json.dumps(start)
    assert time.time() - float((trainings.state("run") / "heartbeat").read_text().split()[2]) < 600
