"""Device labels from the texts of several machines, and the readings."""

import re

import pytest

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine import cpu, nvml
from repvgg_companion.machine.device import (
    LABEL_PATTERN,
    choose_device,
    cpu_label,
    device_label,
    gpu_label,
    machine_state,
)

ZEN5 = """processor : 0
vendor_id : AuthenticAMD
cpu family : 26
model : 2
model name : AMD EPYC 9575F 64-Core Processor
flags : fpu sse avx avx2 avx512f avx512_vnni avx512_bf16

processor : 1
vendor_id : AuthenticAMD
model : 99
"""
HASWELL = "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 63\nflags : fpu avx avx2\n"
GRAVITON = "CPU implementer : 0x41\nCPU architecture: 8\nCPU part : 0xd40\nFeatures : fp asimd sve\n"


@pytest.mark.parametrize(
    ("text", "cores", "label"),
    [
        (ZEN5, 2, "cpu-amd-family26-model2-avx512bf16-2cores"),
        (HASWELL, 16, "cpu-intel-family6-model63-avx2-16cores"),
        (GRAVITON, 4, "cpu-arm-family8-model0xd40-sve-4cores"),
    ],
)
def test_cpu_labels_tell_generations_and_cores_apart(text, cores, label):
    assert cpu_label(text, cores) == label


def test_gpu_labels_tell_form_factor_power_limit_and_slices_apart():
    names = [
        gpu_label("NVIDIA H100 80GB HBM3", 700.0),
        gpu_label("NVIDIA H100 PCIe", 350.0),
        gpu_label("NVIDIA H100 80GB HBM3", 500.0),
        gpu_label("NVIDIA H100 80GB HBM3 MIG 1g.10gb"),
        gpu_label("GeForce GTX 1080 Ti", 250.0),
    ]
    assert names[0] == "gpu-nvidia-h100-80gb-hbm3-700w"
    assert names[4] == "gpu-nvidia-geforce-gtx-1080-ti-250w"
    assert len(set(names)) == 5
    assert all(re.fullmatch(LABEL_PATTERN, name) for name in names)


def test_this_machine_has_a_stable_label():
    assert device_label("cpu") == device_label("cpu")
    assert re.fullmatch(LABEL_PATTERN, device_label("cpu"))
    assert device_label("cpu", cores=1).endswith("-1cores")


def test_no_gpu_is_said_plainly():
    import torch

    if torch.cuda.is_available():
        assert choose_device("auto") == "cuda"
        return
    assert choose_device("auto") == "cpu"
    with pytest.raises(CompanionError, match="no GPU"):
        choose_device("cuda")


def test_throttling_and_foreign_processes_become_flags():
    quiet = {"gpu": {"throttle_reasons": 0x1, "other_processes": []}}
    assert nvml.gpu_flags(quiet, quiet) == []
    busy = {"gpu": {"throttle_reasons": 0x4 | 0x1, "other_processes": ["python (42)"]}}
    assert nvml.gpu_flags(quiet, busy) == ["busy: python (42)", "at its power limit"]
    hot = {"gpu": {"throttle_reasons": 0x20 | 0x40 | 0x80, "other_processes": []}}
    assert nvml.gpu_flags(quiet, hot) == ["throttled: temperature, power brake of the machine"]


@pytest.mark.parametrize(
    ("found", "known", "others"),
    [
        ([42], {42}, []),
        ([42, 7], {42, 7}, [7]),
        # A container: NVML gives the host's numbers, and one that is unknown here is this process itself.
        ([90001], {42}, []),
        ([90001, 90002], {42}, [90002]),
        ([], {42}, []),
        # Another process of the same container beside ours under the host's number.
        ([7, 90001], {42, 7}, [7]),
    ],
)
def test_own_process_is_not_foreign(found, known, others):
    assert nvml.foreign_pids(found, 42, known.__contains__) == others


def test_foreign_share_counts_others_and_the_hypervisor():
    before = cpu.CpuMoment(wall_s=0, busy_s=100, stolen_s=5, own_s=10)
    after = cpu.CpuMoment(wall_s=10, busy_s=117, stolen_s=6, own_s=20)
    # Of 20 core-seconds, the machine was busy for 17, 10 of them ours, and 1 was stolen.
    assert cpu.foreign_share(before, after, cores=2) == pytest.approx(0.4)


def test_readings_never_fail():
    facts = machine_state("cuda")
    assert facts["cpu"]["load_average"]
    assert "unreadable" in facts["gpu"] or facts["gpu"]["name"]
    assert cpu.peak_rss_mib() > 10
