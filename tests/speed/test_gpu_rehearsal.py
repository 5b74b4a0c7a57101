"""The whole programme of a GPU on a stand-in: every part, every verb that it calls, and what it writes."""

import functools
import json
import os
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from stand_in_gpu import LABEL, stand_in_gpu

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.speed import ceilings, device_parts, device_work, fused, group, harness, measure_device, programme
from repvgg_companion.speed.device_parts import DigitsSettings, PeerSettings, parts_of
from repvgg_companion.speed.digits_training import train_on_digits
from repvgg_companion.speed.samples import find_run
from repvgg_companion.speed.speed_settings import KernelSettings, SpeedSettings
from repvgg_companion.training.job import stop

SMALL = {"width": 0.1, "num_classes": 10, "input_px": 16}


def smaller(part):
    """The same part with one or two small networks, small images and small batches."""
    work = part.work
    if isinstance(work, SpeedSettings):
        models = ("RepVGG-A0", "RepVGG-B1g4") if part.name == "check" else ("RepVGG-A0",)
        networks = {"models": models, "baselines": ("ResNet-18",), "anchor": "ResNet-18"}
        batches = (2,) if work.batch_sizes == (128,) else work.batch_sizes
        work = replace(work, **networks, batch_sizes=batches, **SMALL)
    elif isinstance(work, KernelSettings):
        work = replace(work, batch_size=1, channels=16, resolution_px=8)
    elif isinstance(work, PeerSettings):
        work = replace(work, models=("RepVGG-A0",), batch_size=2, input_px=16)
    elif isinstance(work, DigitsSettings):
        work = replace(work, width=0.1, epochs=2)
    else:
        work = replace(work, models=("RepVGG-A0",), batch_size=2, **SMALL)
    return replace(part, work=work, starts=2 if part.name == "check" else 1)


def in_this_process(words, stop_when=None):
    """A verb that would run in a process of its own; SIGTERM comes from a thread."""
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    ended = threading.Event()

    def watch():
        while not ended.wait(0.005):
            if stop_when():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch)
    if stop_when is not None:
        thread.start()
    try:
        return main(words)
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The folder of a device that was measured on the stand-in."""
    folder = tmp_path_factory.mktemp("rehearsal")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        parts = [smaller(part) for part in parts_of("cuda")]
        patch.setattr(measure_device, "parts_of", lambda kind, full: [replace(part, minutes=30) for part in parts])
        patch.setattr(measure_device, "process_age_s", lambda: 0.0)  # the process is that of all the tests
        patch.setattr(stop, "process_age_s", lambda: 0.0)
        patch.setattr(measure_device, "call_apart", lambda words, until: in_this_process(words))
        patch.setattr(device_work, "train_on_digits", functools.partial(train_on_digits, call=in_this_process))
        same = SimpleNamespace(time_block=lambda call, iterations: 1.0)
        patch.setattr(fused, "clock_for", lambda kind: same)  # the first way that runs, whatever the CPU is fast at
        patch.setattr(torch, "compile", lambda module, **_: module)  # asks the real driver
        patch.setattr(ceilings, "_GPU_MATRICES", (32, 64))
        patch.setattr(ceilings, "_COPY_BYTES", {"cuda": 1 << 16})
        patch.setitem(harness.LIMITS, "cuda", harness.Limits(0.001, 3, 0.0005, 1, 2.0, 5.0))
        patch.setattr(programme, "PAPER_BATCH_SIZE", 2)
        patch.setattr(group, "PAPER_BATCHES", 20)
        patch.chdir(folder)
        with stand_in_gpu(patch):
            words = ["measure-device", "--minutes", "60", "--output", "devices", "--state", "state"]
            assert main(words) == 0
            rows = (folder / "devices" / LABEL / "speed.csv").read_bytes()
            assert main(words) == 0, "nothing is left, so nothing is measured"
            assert (folder / "devices" / LABEL / "speed.csv").read_bytes() == rows
    torch.set_num_threads(threads)
    return folder / "devices" / LABEL


def test_every_part_gives_its_rows(rehearsed):
    folder = rehearsed
    facts = json.loads(next((folder / "runs").iterdir()).read_text())
    assert [part["name"] for part in facts["parts"]] == [part.name for part in device_parts.gpu_parts()]
    rows = read_rows(folder / "speed.csv", "speed")
    run = find_run(folder / "speed", rows[0]["run_id"])
    for row in rows:
        assert row["device"] == LABEL
        assert row["n_samples"] == len(run.of(row)) >= 20, row
    settings = {(row["protocol"], row["precision"], row["backend"]) for row in rows}
    assert settings == {
        *(("interleaved", "bf16", backend) for backend in ("eager", "cuda-graph", "fused-cuda-graph", "compile")),
        *(("paper", precision, "eager") for precision in ("fp32", "tf32")),
    }
    assert {row["form"] for row in rows if row["backend"] == "cuda-graph"} == {"train", "deploy"}
    assert {row["form"] for row in rows if row["backend"] == "fused-cuda-graph"} == {"deploy"}
    assert {sample.start for sample in run.samples} == {0, 1}


def test_fused_operators_are_counted_where_cudnn_refuses_groups(rehearsed):
    rows = [row for row in read_rows(rehearsed / "speed.csv", "speed") if row["backend"] == "fused-cuda-graph"]
    flags = {row["model"]: row["flags"] or "" for row in rows}
    assert "fused operators for " in flags["RepVGG-B1g4"]
    assert "fused operators" not in flags["RepVGG-A0"]


def test_the_other_tables_are_there(rehearsed):
    folder = rehearsed
    kernels = read_rows(folder / "kernel_size.csv", "kernel_size")
    assert {(row["precision"], row["kernel_size"]) for row in kernels} == {
        (precision, size) for precision in ("bf16", "tf32") for size in (1, 3, 5, 7)
    }
    memory = read_rows(folder / "memory.csv", "memory")
    assert {row["form"] for row in memory if row["layer"] == "whole-network"} == {"train", "deploy"}
    rows = read_rows(folder / "peers.csv", "peers")
    ways = {(row["work"], row["way"]): row for row in rows}
    assert {way for work, way in ways if work == "inference"} == {
        *(f"ours {way}" for way in ("eager", "fused", "cuda-graph", "fused-cuda-graph")),
        *("timm eager", "timm cuda-graph"),
    }
    assert ways["training step", "ours"]["over_timm"] > 0
    assert ways["training step", "ours, no algorithm search"]["over_timm"] > 0
    assert ways["training step", "timm"]["over_timm"] == 1


def test_a_training_is_stopped_continued_converted_and_evaluated(rehearsed):
    facts = json.loads(next((rehearsed / "runs").iterdir()).read_text())
    (digits,) = facts["digits"]
    assert [(step["verb"], step["status"]) for step in digits["steps"]] == [
        ("make-demo-data", 0), ("index", 0), ("train", 75), ("train", 0), ("reparameterize", 0), ("evaluate", 0),
    ]  # fmt: skip
    assert digits["certificate_passed"]
    assert set(digits["top1_pct"]) == {"train", "deploy"}


def test_clocks_are_read_while_the_gpu_works(rehearsed):
    facts = json.loads(next((rehearsed / "runs").iterdir()).read_text())
    readings = [group["readings"] for group in facts["groups"]]
    assert all(reading["during"]["gpu"]["clock_sm_mhz"] == 1755 for reading in readings if "during" in reading)
    assert sum("during" in reading for reading in readings) > len(readings) / 2
