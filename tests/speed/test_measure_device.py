"""The programme of a device on a CPU with two small networks: continuing, stopping, its end, and what goes wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.machine.device import cpu_label
from repvgg_companion.speed import ceilings, device_work, finished_groups, measure_device, preparation
from repvgg_companion.speed.alarm import Alarm, Stopped, undisturbed
from repvgg_companion.speed.clocks import CpuClock
from repvgg_companion.speed.device_parts import PeerSettings, cpu_parts, gpu_parts, parts_of
from repvgg_companion.speed.device_work import MeasuredDevice, method_of, speed_groups
from repvgg_companion.speed.finished_groups import FinishedWork
from repvgg_companion.speed.group import measure
from repvgg_companion.speed.harness import LIMITS, Rounds, Subject, measure_group
from repvgg_companion.speed.programme import networks
from repvgg_companion.speed.speed_settings import SpeedSettings

SMALL = {"models": ("RepVGG-A0",), "baselines": ("ResNet-18",), "width": 0.1, "num_classes": 10, "input_px": 32}


def small_parts(kind="cpu", *, full=False):
    """Batch 1 and 8 in fp32, eager and fused: four groups of two networks."""
    settings = {"precisions": ("fp32",), "backends": ("eager", "fused"), "threads": 1}
    return [replace(part, work=replace(part.work, **SMALL, **settings), starts=1) for part in cpu_parts()[:2]]


@pytest.fixture
def device(tmp_path, monkeypatch):
    """Runs the verb on the small parts; rows and state are in `tmp_path`."""
    monkeypatch.setattr(measure_device, "parts_of", small_parts)
    monkeypatch.setattr(measure_device, "process_age_s", lambda: 0.0)
    monkeypatch.setattr(ceilings, "_CPU_CONVOLUTIONS", ((4, 64, 56),))
    ceilings._fastest.cache_clear()  # it may remember a place in the longer list

    def call(minutes=20, *more):
        words = ["--output", str(tmp_path / "devices"), "--state", str(tmp_path / "state"), "--device", "cpu"]
        return main(["measure-device", "--minutes", str(minutes), *words, *more])

    call.folder = tmp_path / "devices" / cpu_label()
    call.state = tmp_path / "state" / cpu_label()
    return call


def rows_of(device):
    return read_rows(device.folder / "speed.csv", "speed")


def test_a_stopped_programme_repeats_no_finished_group(device, monkeypatch, capsys):
    measured = []

    def until_the_third(group, *rest, **options):
        if len(measured) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        measured.append(group.name)
        return measure(group, *rest, **options)

    monkeypatch.setattr(finished_groups, "measure", until_the_third)
    before = signal.getsignal(signal.SIGTERM)
    assert device() == 75
    assert "stopped by SIGTERM; the rows of all that was measured are written" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    first = {(row["model"], row["backend"]): row["examples_per_s"] for row in rows_of(device)}
    assert len(first) == 4, "two groups of two networks"

    monkeypatch.setattr(finished_groups, "measure", lambda group, *rest, **options: (
        measured.append(group.name), measure(group, *rest, **options))[1])  # fmt: skip
    assert device() == 0
    assert len(measured) == len(set(measured)) == 4
    rows = rows_of(device)
    assert len(rows) == 8
    assert {(row["model"], row["backend"]): row["examples_per_s"] for row in rows if row["batch_size"] == 1} == first
    (run,) = {row["run_id"] for row in rows}
    assert [path.stem for path in (device.folder / "runs").iterdir()] == [run]
    assert main(["check-devices", "--folder", str(device.folder.parent)]) == 0


def test_an_alarm_waits_for_the_end_of_a_section_that_must_not_be_interrupted():
    """An exception in the middle of torch's profiler may crash the process."""
    steps = []
    alarm = Alarm(time.monotonic() + 600, grace_s=0.2)
    try:
        with pytest.raises(Stopped), alarm:
            with undisturbed():
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(1.5)
                steps.append("still in the section")
            steps.append("after it")
            time.sleep(60)
            steps.append("too late")
    finally:
        alarm.restore()
    assert steps == ["still in the section", "after it"] and alarm.reason == "SIGUSR1"


def test_a_stop_waits_for_the_end_of_a_call():
    """An exception in the middle of a library's work crashed the process, at times."""
    calls = []

    def call():
        calls.append("begun")
        if len(calls) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        calls.append("ended")

    alarm = Alarm(time.monotonic() + 600)
    try:
        with pytest.raises(Stopped), alarm:
            measure_group([Subject("a", call, checked_s=1.0)], CpuClock(), Rounds(1000, LIMITS["cpu"]))
    finally:
        alarm.restore()
    assert calls[-1] == "ended" and len(calls) < 20 and alarm.reason == "SIGTERM"


def test_a_closed_terminal_stops_nothing_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    alarm = Alarm(time.monotonic() + 600)
    try:
        with alarm:
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        alarm.restore()
        signal.signal(signal.SIGHUP, before)
    assert not alarm.reason


def test_where_bf16_is_emulated_only_a_few_networks_are_measured(monkeypatch):
    """An anchor that is alone in a group is left to the group in which it has company."""
    monkeypatch.setattr(preparation, "cpu_has_bf16", lambda: False)
    (part,) = [part for part in cpu_parts() if part.name == "batch-1"]
    small = replace(part.work, **SMALL | {"models": ("RepVGG-A0", "RepVGG-B0")}, backends=("eager",), group_size=2)
    part = replace(part, work=replace(small, precisions=("bf16",), roofline=False, threads=1))
    method = method_of(part, MeasuredDevice("cpu", "a", 1, Path("nowhere")))
    measured = [measure(group, method) for group in speed_groups(part)]
    names = [[(member.name, bool(member.reason)) for member in record.members] for record in measured]
    assert names == [
        [("ResNet-18 deploy", False), ("RepVGG-A0 deploy", False)],
        [("RepVGG-B0 deploy", True)],
    ]
    assert "slower in bf16 than in fp32; RepVGG-A0 and ResNet-18" in measured[1].members[0].reason


@pytest.mark.slow
def test_a_killed_programme_goes_on(device, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import test_measure_device as test; "
        "test.measure_device.parts_of = test.small_parts; sys.exit(test.main(sys.argv[1:]))"
    )
    words = ["measure-device", "--device", "cpu", "--output", str(device.folder.parent)]
    words += ["--state", str(device.state.parent), "--minutes", "5"]
    process = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), *words])
    while not list(device.state.glob("group-*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = {path: path.read_bytes() for path in device.state.glob("group-*.json")}
    assert device() == 0
    assert len(list(device.state.glob("group-*.json"))) == 4
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_it_ends_within_its_minutes(device, monkeypatch, capsys):
    monkeypatch.setattr(measure_device.Programme, "_measure", lambda self: time.sleep(3600))
    assert device(0.05) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no group of the first part, batch-1, was finished in 0.05 minutes; give more" in said
    assert device(0) == 2
    assert "--minutes is 0; it must be above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ("0.5", "0.5 are given; in less than 2 perhaps no group of networks is finished; "),
        ("8", "8 are given; "),
        ("10", ""),
    ],
)  # fmt: skip
def test_too_short_a_time_is_told_before_anything_is_measured(device, monkeypatch, capsys, minutes, said):
    monkeypatch.setattr(measure_device.Programme, "_measure", lambda self: None)
    assert device(minutes) == 2
    first = capsys.readouterr().err.splitlines()[0]
    told = "measure-device: all parts once take up to 10 minutes on a CPU, "
    assert first == f"{told}{said}the same command goes on where this one ends" if said else told not in first


@pytest.mark.parametrize(("left_s", "least", "most"), [(-1.0, 3, 3), (0.2, 3, 25)])
def test_rounds_end_with_the_time_but_not_before_the_least(left_s, least, most):
    subject = Subject("a", lambda: time.sleep(0.01), checked_s=1.0)
    rounds = Rounds(1000, LIMITS["cpu"], least=3, until=time.monotonic() + left_s)
    result = measure_group([subject], CpuClock(), rounds)
    assert least <= len(result.timings) <= most


def test_rows_of_other_runs_stay(device, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_device, "parts_of", lambda kind, full: small_parts()[:1])
    assert device() == 0
    before = rows_of(device)
    for path in device.state.iterdir():
        path.rename(tmp_path / path.name)
    assert device() == 0
    rows = rows_of(device)
    assert len(rows) == 8
    assert all(row in rows for row in before)
    assert len(list((device.folder / "runs").iterdir())) == 2


@pytest.mark.parametrize("text", ["something of my own\n", None])
def test_a_foreign_table_is_never_written_over(device, text, capsys):
    path = device.folder / "memory.csv"
    path.parent.mkdir(parents=True)
    if text is None:
        assert main(["measure-memory", "--experiment", "t", "--plan", json.dumps({"models": ["RepVGG-A0"], "width": 0.1,
                     "num_classes": 10, "input_px": 32, "device": "cpu"}), "--output", str(path), "--runs",
                     str(device.folder / "runs")]) == 0  # fmt: skip
        path.write_text(path.read_text().replace(device.folder.name, "cpu-other-machine"))
        text = path.read_text()
    else:
        path.write_text(text)
    capsys.readouterr()
    assert device() == 2
    assert path.read_text() == text
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said


def test_a_full_disk_ends_it_with_the_rows_of_what_was_kept(device, monkeypatch, capsys):
    store, kept = FinishedWork.store, []

    def full(self, kind, facts, value):
        if kind == "group" and len(kept) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "state/group")
        kept.append(kind)
        store(self, kind, facts, value)

    monkeypatch.setattr(FinishedWork, "store", full)
    assert device() == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device; free some space and start again; the rows of all that was measured" in said
    assert {row["backend"] for row in rows_of(device)} == {"eager"}


def test_no_gpu_is_one_sentence(device, capsys):
    assert device(1, "--device", "cuda") == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_a_busy_gpu_is_said(device, monkeypatch, capsys):
    from repvgg_companion.machine import device as machine

    busy = {"gpu": {"other_processes": ["python (7)"], "throttle_reasons": 0}}
    monkeypatch.setattr(machine, "machine_state", lambda kind: busy)
    monkeypatch.setattr(measure_device.Programme, "_measure", lambda self: None)
    device()
    assert "the GPU is busy: python (7); it is measured anyway, and the rows say so" in capsys.readouterr().err


def test_what_fails_in_one_part_leaves_the_others_alone(device, monkeypatch, capsys):
    peers = replace(cpu_parts()[4], work=PeerSettings(("RepVGG-A0",), 1, "fp32", input_px=32))
    monkeypatch.setattr(measure_device, "parts_of", lambda kind, full: [peers, small_parts()[0]])
    monkeypatch.setitem(sys.modules, "timm", None)
    assert device() == 1
    said = capsys.readouterr().err
    assert "peers is not measured: timm is not installed, so nothing is compared with it; install timm" in said
    assert len(rows_of(device)) == 4


def test_every_part_has_a_name_of_its_own_and_the_order_of_importance():
    for kind in ("cpu", "cuda"):
        names = [part.name for part in parts_of(kind, full=True)]
        assert len(names) == len(set(names))
    assert [part.name for part in gpu_parts()] == [
        *("check", "bf16", "bf16-train", "peers", "training-steps", "table6", "table1", "memory", "digits"),
        *("table4-tf32", "table4-fp32", "compiled", "compiled-resnet"),
    ]
    bf16 = gpu_parts()[1].work
    order = [network.model.removeprefix("RepVGG-") for unit in networks(bf16) for network in unit]
    assert list(dict.fromkeys(order))[:6] == ["B1", "A0", "B3", "A2", "B0", "B2"]
    assert len([model for model in bf16.models if "_" not in model]) == 14


def test_a_group_runs_by_all_backends_before_the_next_one():
    part = cpu_parts()[0]
    assert isinstance(part.work, SpeedSettings)
    groups = [group for group in device_work.speed_groups(part) if group.condition.precision == "fp32"]
    assert [group.condition.backend for group in groups[:4]] == ["eager", "fused", "openvino", "eager"]
    assert groups[0].networks == groups[2].networks != groups[3].networks
