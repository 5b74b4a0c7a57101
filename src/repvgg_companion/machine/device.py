"""Stable names of measured machines, from what the operating system or NVML reports.

A label tells generations apart and is the same after a restart, so that rows of several machines stand in one table:
`cpu-intel-family6-model85-avx512vnni-2cores`, `gpu-nvidia-h100-80gb-hbm3-700w`. It is also a folder name.
"""

import platform
import re
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import cpu_reading, usable_cores
from repvgg_companion.machine.nvml import gpu_reading

LABEL_PATTERN = r"(cpu|gpu)-[a-z0-9.]+(-[a-z0-9.]+)*"
_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "HygonGenuine": "hygon", "0x41": "arm", "0x61": "apple"}
_VECTORS = (
    ("amx_bf16", "amx"),
    ("avx512_bf16", "avx512bf16"),
    ("avx512_vnni", "avx512vnni"),
    ("avx512f", "avx512"),
    ("avx2", "avx2"),
    ("avx", "avx"),
    ("sve2", "sve2"),
    ("sve", "sve"),
    ("asimd", "neon"),
)
"""From the strongest to the weakest; the first one that the processor has goes into the label."""


def cpu_label(cpuinfo: str | None = None, cores: int | None = None) -> str:
    """Label of a CPU from the text of `/proc/cpuinfo` and the number of cores used.

    It holds vendor, family, model, the strongest vector instructions and the cores; not the name, which hypervisors
    change, and not the clock.
    """
    text = _read("/proc/cpuinfo") if cpuinfo is None else cpuinfo
    facts = _first_processor(text)
    vendor = facts.get("vendor_id") or facts.get("CPU implementer") or platform.machine() or "unknown"
    family = facts.get("cpu family") or facts.get("CPU architecture") or "0"
    model = facts.get("model") or facts.get("CPU part") or "0"
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    vector = next((short for flag, short in _VECTORS if flag in flags), "scalar")
    cores = usable_cores() if cores is None else cores
    words = ("cpu", _VENDORS.get(vendor, vendor), f"family{family}", f"model{model}", vector, f"{cores}cores")
    return _slug(" ".join(words))


def gpu_label(name: str, power_limit_w: float | None = None) -> str:
    """Label of a GPU from its full name (with form factor, memory and MIG slice) and its enforced power limit.

    Two cards of one kind with different power limits are two devices: the limit decides the clock under load.
    """
    words = ["gpu", name if name.lower().startswith(("nvidia", "amd")) else f"nvidia {name}"]
    if power_limit_w:
        words.append(f"{round(power_limit_w)}w")
    return _slug(" ".join(words))


def device_label(kind: str, *, cores: int | None = None) -> str:
    """Label of the device that is measured: `kind` is `cpu` or `cuda`. On a GPU it asks torch and NVML.

    Raises CompanionError if a GPU is asked for and there is none.
    """
    if choose_device(kind) == "cpu":
        return cpu_label(cores=cores)
    import torch

    return gpu_label(torch.cuda.get_device_name(), gpu_reading().get("power_limit_w"))


def choose_device(wanted: str) -> str:
    """`cpu` or `cuda` for a setting of `auto`, `cpu` or `cuda`; raises CompanionError if there is no such device."""
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise CompanionError(
            "device is cuda, but torch sees no GPU; set device to cpu, or install a torch build for the driver that "
            "nvidia-smi names"
        )
    return "cpu"


def machine_state(kind: str) -> dict[str, Any]:
    """All readings of the device of `kind` (`cpu` or `cuda`); the CPU's are taken in both cases."""
    facts: dict[str, Any] = {"cpu": cpu_reading()}
    if kind == "cuda":
        facts["gpu"] = gpu_reading()
    return facts


def _first_processor(text: str) -> dict[str, str]:
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            if facts and not line.strip():
                break
            continue
        facts.setdefault(key.strip(), value.strip())
    return facts


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
