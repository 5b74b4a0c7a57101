"""Readings of an NVIDIA GPU through NVML, and the flags that follow from them. No torch.

Everything is only read, nothing is set.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repvgg_companion.machine.cpu import lines_of

_POWER_LIMIT = 0x4
"""NVML's reason for a reduced clock: the GPU would exceed its power limit, which is in its label."""
_THROTTLED = {
    0x8: "hardware slowdown",
    0x10: "clock of the GPUs it is synchronised with",
    0x20: "temperature",
    0x40: "temperature",
    0x80: "power brake of the machine",
}
"""NVML's other reasons that slow a GPU down; idle, clocks set by the user and the display's clock do not."""


def gpu_reading(index: int = 0) -> dict[str, Any]:
    """Clocks, power, temperature, throttle reasons and foreign processes of one GPU by NVML, or the reason why not.

    `index` counts the devices that this process sees; `CUDA_VISIBLE_DEVICES` is followed.
    """
    try:
        import pynvml
    except ImportError:
        return {"unreadable": "nvidia-ml-py is not installed"}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"unreadable": str(error)}
    try:
        handle = _handle(pynvml, index)
        reading = {
            "name": _asked(pynvml.nvmlDeviceGetName, handle),
            "driver": _asked(pynvml.nvmlSystemGetDriverVersion),
            "clock_sm_mhz": _asked(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
            "clock_memory_mhz": _asked(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
            "clock_sm_max_mhz": _asked(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
            "power_w": _milli(_asked(pynvml.nvmlDeviceGetPowerUsage, handle)),
            "power_limit_w": _milli(_asked(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            "temperature_c": _asked(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": _asked(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
            "other_processes": _other_processes(pynvml, handle),
        }
    except pynvml.NVMLError as error:
        return {"unreadable": str(error)}
    finally:
        pynvml.nvmlShutdown()
    return reading


def gpu_flags(*readings: dict[str, Any]) -> list[str]:
    """The flags that GPU readings show: `busy`, `throttled`, and `at its power limit`, which disturbs nothing.

    A GPU that works hard is at its power limit most of the time; every speed that is published holds under its limit.
    """
    flags = []
    gpus = [facts["gpu"] for facts in readings if "gpu" in facts]
    others = sorted({name for gpu in gpus for name in gpu.get("other_processes") or []})
    if others:
        flags.append(f"busy: {', '.join(others)}")
    reasons = 0
    for gpu in gpus:
        reasons |= gpu.get("throttle_reasons") or 0
    if slowed := dict.fromkeys(name for bit, name in _THROTTLED.items() if reasons & bit):
        flags.append(f"throttled: {', '.join(slowed)}")
    if reasons & _POWER_LIMIT:
        flags.append("at its power limit")
    return flags


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them; UUIDs if the driver tells them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if chosen is None else [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        import pynvml
    except ImportError:
        return names or []
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return names or []
    if names is None:
        return uuids
    return [uuids[int(name)] if name.isdigit() and int(name) < len(uuids) else name for name in names]


def _handle(pynvml: Any, index: int) -> Any:
    # CUDA may count devices in another order than NVML, so the device is named by its UUID where torch knows it.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        uuid = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
        for prefix in ("GPU-", "MIG-"):
            with contextlib.suppress(pynvml.NVMLError):
                return pynvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
    visible = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    if not visible:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    chosen = visible[index]
    if chosen.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(chosen))
    return pynvml.nvmlDeviceGetHandleByUUID(chosen)


def _other_processes(pynvml: Any, handle: Any) -> list[str]:
    found = [process.pid for process in _asked(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []]
    return [_process_name(pid) for pid in foreign_pids(found, os.getpid(), lambda pid: Path(f"/proc/{pid}").exists())]


def foreign_pids(found: list[int], own: int, known: Callable[[int], bool]) -> list[int]:
    """The processes on a GPU that are not `own`.

    NVML numbers processes as the host does. In a container `own` is then missing from `found`, and one number that
    is not `known` here is this process.
    """
    others = sorted(set(found) - {own})
    if own not in found and (unknown := [pid for pid in others if not known(pid)]):
        others.remove(unknown[0])
    return others


def _process_name(pid: int) -> str:
    name = lines_of(f"/proc/{pid}/comm")
    return f"{name[0] if name else 'process'} ({pid})"


def _asked(question: Any, *arguments: Any) -> Any:
    """The result of the query, or None if the device does not support it."""
    import pynvml

    try:
        answer = question(*arguments)
    except (pynvml.NVMLError, AttributeError):
        return None
    return answer.decode() if isinstance(answer, bytes) else answer


def _milli(value: float | None) -> float | None:
    return None if value is None else value / 1000
