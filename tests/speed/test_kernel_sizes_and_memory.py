"""Table 1 and Figure 3 on this machine: rows against the raw samples, counts against the paper's, memory by hand."""

import json

import pytest
import torch

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.speed.convolutions import convolution_groups, macs
from repvgg_companion.speed.measure_memory import FIGURE_3, WHOLE, figure_3_points, trace
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.speed.samples import find_run
from repvgg_companion.speed.speed_settings import KernelSettings, MemorySettings


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    plan = json.dumps({"batch_size": 1, "channels": 32, "resolution_px": 28, "rounds": 20, "threads": 1})
    assert main(["measure-kernel-sizes", "--experiment", "test", "--plan", plan, "--output", str(folder / "k.csv"),
                 "--samples", str(folder / "speed"), "--runs", str(folder / "runs")]) == 0  # fmt: skip
    return folder


def test_kernel_rows_follow_from_the_samples(kernels):
    rows = read_rows(kernels / "k.csv", "kernel_size")
    assert [row["kernel_size"] for row in rows if row["precision"] == "fp32"][:4] == [1, 3, 5, 7]
    run = find_run(kernels / "speed", rows[0]["run_id"])
    for row in rows:
        times = sorted(s.seconds for s in run.samples if s.role == "timed" and s.precision == row["precision"]
                       and s.model == f"Conv-{row['kernel_size']}x{row['kernel_size']}")  # fmt: skip
        assert row["n_samples"] == len(times) >= 20
        median = (times[len(times) // 2] + times[(len(times) - 1) // 2]) / 2
        assert row["time_ms"] == pytest.approx(1e3 * median)
        assert row["low_ms"] <= row["time_ms"] <= row["high_ms"]
        work = 2 * 32 * 32 * 28 * 28 * row["kernel_size"] ** 2
        assert row["tflops"] == pytest.approx(work / median / 1e12)


def test_the_winograd_comparison_is_recorded(kernels):
    facts = json.loads(next((kernels / "runs").iterdir()).read_text())
    (compared,) = facts["winograd"][:1]
    assert compared["stride_2_over_stride_1"]["value"] > 0
    assert compared["accelerated"] in (True, False)


def test_a_gpu_measures_no_strided_convolution_in_channels_last():
    found = convolution_groups(KernelSettings(), "cuda")
    groups = {(group.condition.precision, group.condition.memory_format): group for group in found}
    for (_, memory_format), group in groups.items():
        strided = [network.name for network in group.networks if network.stride == 2]
        assert len(group.networks) == 4 + len(strided)
        assert bool(strided) == (memory_format == "contiguous")
    assert len(groups) == 6


@pytest.mark.parametrize(("size", "billions"), [(1, 420.9), (3, 3788.1), (5, 10522.6), (7, 20624.4)])
def test_counts_are_those_of_the_papers_table_1(size, billions):
    assert int(macs(KernelSettings(), size) / 1e8) / 10 == billions


@pytest.mark.parametrize(("plan", "words"), [('{"batch": 1}', "batch"), ('{"rounds": 3}', "rounds"),
                                             ('{"precisions": ["fp8"]}', "fp8")])  # fmt: skip
def test_wrong_kernel_settings_are_refused(plan, words):
    with pytest.raises(CompanionError, match=words):
        KernelSettings.read(plan)


@pytest.mark.parametrize(
    ("model", "multiples"), [("ResNet-18", [1, 2, 2, 1]), ("RepVGG-A0", [1, 1, 1, 1]), ("RepVGG-B1", [1, 1, 1, 1])]
)
def test_figure_3_a_residual_block_holds_twice_its_input(model, multiples):
    module = ModelForm(model, "deploy", 0.25, 10).build()
    with torch.inference_mode():
        points = figure_3_points(trace(module, torch.randn(1, 3, 64, 64), "cpu"))
    first = points[FIGURE_3[0]]
    assert [points[name] / first for name in FIGURE_3] == multiples


def test_live_memory_of_a_chain_is_counted_by_hand():
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(8, 2, 1)).eval()
    images = torch.randn(2, 4, 64, 64)
    with torch.inference_mode():
        points = trace(module, images, "cpu")
    channel = 2 * 64 * 64 * 4 / 2**20
    assert [point.live_mib for point in points] == pytest.approx([4 * channel, 8 * channel, 8 * channel])
    # While the first convolution runs, its output comes on top, and copies in another layout may.
    assert points[0].peak_mib >= 12 * channel
    assert points[1].peak_mib == pytest.approx(8 * channel)


def test_memory_rows(tmp_path):
    plan = json.dumps({"models": ["RepVGG-A0", "ResNet-18"], "width": 0.25, "num_classes": 10, "input_px": 64})
    assert main(["measure-memory", "--experiment", "test", "--plan", plan, "--output", str(tmp_path / "m.csv"),
                 "--runs", str(tmp_path / "runs")]) == 0  # fmt: skip
    rows = {(row["model"], row["form"], row["layer"]): row for row in read_rows(tmp_path / "m.csv", "memory")}
    for model in ("RepVGG-A0", "ResNet-18"):
        for form in ("train", "deploy"):
            weights = sum(p.numel() for p in ModelForm(model, form, 0.25, 10).on_meta().parameters()) * 4 / 2**20
            whole = rows[model, form, WHOLE]
            assert weights < whole["peak_mib"] < weights + 10
    branches = rows["RepVGG-A0", "train", WHOLE]["live_feature_map_mib"]
    assert branches > rows["RepVGG-A0", "deploy", WHOLE]["live_feature_map_mib"]
    assert rows["ResNet-18", "deploy", FIGURE_3[1]]["live_feature_map_mib"] > 0


def test_memory_settings_are_strict():
    with pytest.raises(CompanionError, match="model is not a known key; did you mean models"):
        MemorySettings.read('{"model": ["RepVGG-A0"]}')
    with pytest.raises(CompanionError, match="memory: models is missing"):
        MemorySettings.read('{"batch_size": 1}')
