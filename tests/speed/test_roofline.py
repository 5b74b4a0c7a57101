"""Ceilings, floors and the check of contributed rows."""

import json
import shutil

import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.speed.ceilings import ceiling_subjects
from repvgg_companion.speed.check_devices import check_device
from repvgg_companion.speed.clocks import CpuClock
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.speed.roofline import (
    UNRELIABLE,
    Ceilings,
    fastest_examples_per_s,
    floor_seconds,
    judge,
    layers_of,
    work_of_layers,
)

UNIT = Ceilings("fp32", 1e12, 1e30, "given")


def least_seconds(layers, batch_size, ceilings):
    work = work_of_layers(layers, batch_size, ceilings.precision)
    return floor_seconds(work, ceilings.operations_per_s, ceilings.bytes_per_s)


def test_compute_floor_is_that_of_the_papers_counts():
    # RepVGG-B0: 3.06 G multiply-adds, 1.59 G with Winograd (Table 4 prints 3.1 and 1.6).
    layers = layers_of(ModelForm("RepVGG-B0", "deploy"), 224)
    assert 1e12 / fastest_examples_per_s(layers, UNIT, winograd=False) / 2e9 == pytest.approx(3.06, abs=0.05)
    assert 1e12 / fastest_examples_per_s(layers, UNIT, winograd=True) / 2e9 == pytest.approx(1.6, abs=0.05)
    assert least_seconds(layers, 4, UNIT) == pytest.approx(4 / fastest_examples_per_s(layers, UNIT, winograd=False))


def test_memory_floor_counts_every_weight_and_map_once():
    layers = layers_of(ModelForm("RepVGG-A0", "deploy"), 224)
    narrow = Ceilings("fp32", 1e30, 1e9, "given")
    params = ModelForm("RepVGG-A0", "deploy").params()
    one, two = least_seconds(layers, 1, narrow) * 1e9 / 4, least_seconds(layers, 2, narrow) * 1e9 / 4
    assert 2 * one - two == pytest.approx(params), "weights move once a batch, feature maps once an image"
    half = Ceilings("bf16", 1e30, 1e9, "given")
    assert least_seconds(layers, 1, half) == pytest.approx(least_seconds(layers, 1, narrow) / 2)


def test_rows_are_judged_by_their_ceilings():
    row = {"model": "RepVGG-B0", "form": "deploy", "width": 1.0, "num_classes": 1000, "input_px": 224,
           "batch_size": 1, "precision": "fp32", "device": "cpu-test", "backend": "eager"}  # fmt: skip
    layers = layers_of(ModelForm("RepVGG-B0", "deploy"), 224)
    direct = fastest_examples_per_s(layers, UNIT, winograd=False)
    assert judge(row | {"examples_per_s": 0.9 * direct}, UNIT) == ""
    above = row | {"examples_per_s": 1.2 * direct}
    assert "direct-convolution" in judge(above | {"backend": "winograd"}, UNIT)
    assert "direct-convolution" in judge(above | {"device": "gpu-test"}, UNIT), "cuDNN chooses Winograd's algorithm"
    assert judge(above, UNIT).startswith("unreliable ceiling"), "oneDNN has direct convolutions only"
    assert judge(row | {"examples_per_s": 0.9 * direct, "roofline_share": 1.2}, UNIT).startswith("unreliable ceiling")
    with pytest.raises(CompanionError, match="Winograd"):
        judge(row | {"examples_per_s": 2.3 * direct}, UNIT)


def test_this_machine_has_ceilings():
    work, subjects = ceiling_subjects("fp32", "cpu")
    compute, copy = (CpuClock().time_block(subject.call, 3) for subject in subjects)
    assert 1e8 < work.operations / compute < 1e15
    assert 1e8 < work.bytes / copy < 1e14


@pytest.fixture(scope="module")
def contributed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contributed")
    plan = {"models": ["RepVGG-A0"], "baselines": ["ResNet-18"], "input_px": 32, "width": 0.125, "threads": 1}
    places = {"--output": "speed.csv", "--samples": "speed", "--runs": "runs"}
    options = [word for option, name in places.items() for word in (option, str(folder / name))]
    assert main(["measure-speed", "--experiment", "test", "--plan", json.dumps(plan), *options]) == 0
    plan = {"batch_size": 1, "channels": 32, "resolution_px": 28, "threads": 1}
    places = {"--output": "kernel_size.csv", "--samples": "speed", "--runs": "runs"}
    options = [word for option, name in places.items() for word in (option, str(folder / name))]
    assert main(["measure-kernel-sizes", "--experiment", "test", "--plan", json.dumps(plan), *options]) == 0
    label = read_rows(folder / "speed.csv", "speed")[0]["device"]
    return folder.rename(folder.parent / label)


@pytest.fixture
def device(contributed, tmp_path):
    return shutil.copytree(contributed, tmp_path / contributed.name)


def test_measured_rows_pass(device):
    rows, flags = check_device(device)
    assert rows == 3 + 4
    # Beside other tests the ceiling may be disturbed; then the row must say so.
    assert all(UNRELIABLE in flag for flag in flags)
    for row in read_rows(device / "speed.csv", "speed"):
        unreliable = UNRELIABLE in (row["flags"] or "")
        assert row["roofline_share"] is None if unreliable else 0 < row["roofline_share"] <= 1
    assert main(["check-devices", "--folder", str(device.parent)]) == 0


def tamper(device, changes, table="speed"):
    path = device / f"{table}.csv"
    rows = read_rows(path, table)
    rows[0] |= {name: value(rows[0][name]) for name, value in changes.items()}
    write_rows(path, table, rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"examples_per_s": lambda v: 1.01 * v, "high_examples_per_s": lambda v: 2 * v}, "raw samples give"),
        ({"p10_examples_per_s": lambda v: 0.9 * v}, "p10_examples_per_s"),
        ({"params": lambda v: v + 1}, "another network"),
        ({"device": lambda v: "cpu-other"}, "folder of that device"),
        ({"run_id": lambda v: "x"}, "is missing"),
        ({"n_samples": lambda v: 5}, "5 samples"),
        ({"base_model": lambda v: "RepVGG-B0"}, "base_model"),
    ],
)
def test_tampered_rows_are_refused(device, changes, words, capsys):
    tamper(device, changes)
    with pytest.raises(CompanionError, match=words):
        check_device(device)
    assert main(["check-devices", "--folder", str(device.parent)]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time_ms": lambda v: 0.99 * v, "low_ms": lambda v: 0.5 * v}, "raw samples give"),
        ({"tflops": lambda v: 1.01 * v}, "raw samples give"),
        ({"channels": lambda v: 2 * v}, "raw samples give"),
        ({"kernel_size": lambda v: 9}, "no samples"),
        ({"n_samples": lambda v: 5}, "5 samples"),
    ],
)
def test_tampered_kernel_rows_are_refused(device, changes, words):
    tamper(device, changes, "kernel_size")
    with pytest.raises(CompanionError, match=words):
        check_device(device)


def test_kernel_rows_are_judged_by_the_ceiling_of_their_run(device):
    rows = read_rows(device / "kernel_size.csv", "kernel_size")
    path = device / "runs" / f"{rows[0]['run_id']}.json"
    facts = json.loads(path.read_text())

    def ceiling(tflops):
        facts["ceilings"][0]["operations_per_s"] = tflops * 1e12
        path.write_text(json.dumps(facts))

    # Whatever the times: one row is at 1.05 times what it may reach, so all are possible and one is flagged at least.
    direct = max(row["tflops"] / (4 * row["kernel_size"] / (row["kernel_size"] + 3)) ** 2 for row in rows) / 1.05
    ceiling(direct)
    above = sum(row["tflops"] > direct for row in rows)
    assert len(check_device(device)[1]) == above >= 1, "above the direct ceiling, as Winograd's can be: flagged"
    ceiling(max(row["tflops"] for row in rows) / 100)
    with pytest.raises(CompanionError, match="Winograd convolutions of"):
        check_device(device)


def test_memory_below_the_weights_is_refused(device):
    plan = json.dumps({"models": ["RepVGG-A0"], "width": 0.25, "num_classes": 10, "input_px": 64})
    options = ["--output", str(device / "memory.csv"), "--runs", str(device / "runs")]
    assert main(["measure-memory", "--experiment", "test", "--plan", plan, *options]) == 0
    rows = read_rows(device / "memory.csv", "memory")
    # The label of this measurement counts all cores, that of the speeds one.
    for row in rows:
        row["device"] = device.name
    run = device / "runs" / f"{rows[0]['run_id']}.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"device": device.name}))
    write_rows(device / "memory.csv", "memory", rows)
    assert check_device(device)[0] == 7 + len(rows)
    for row in rows:
        row["peak_mib"] = 1.0 if row["peak_mib"] is not None else None
    write_rows(device / "memory.csv", "memory", rows)
    with pytest.raises(CompanionError, match="below its weights"):
        check_device(device)


def test_impossible_ceilings_are_noticed(device):
    path = device / "runs" / f"{read_rows(device / 'speed.csv', 'speed')[0]['run_id']}.json"
    facts = json.loads(path.read_text())
    facts["ceilings"][0]["operations_per_s"] /= 1e6
    path.write_text(json.dumps(facts))
    with pytest.raises(CompanionError, match="Winograd"):
        check_device(device)


def test_a_folder_that_is_no_device_is_refused(tmp_path):
    (tmp_path / "My GPU").mkdir()
    with pytest.raises(CompanionError, match="not a device label"):
        check_device(tmp_path / "My GPU")
