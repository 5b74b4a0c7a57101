"""What the machine was doing: readings before and after a measurement go in, facts and flags for the rows come out.

Everything is read, nothing is ever set. No torch.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from repvgg_companion.speed.device import usable_cores

BUSY_SHARE = 0.10
"""Share of the cores that other processes may take before the rows are flagged."""
_HARMLESS_REASONS = 0x1 | 0x2 | 0x100
"""NVML throttle reasons that are no throttling: idle, clocks set by the user, display clock."""


@dataclass(frozen=True)
class CpuMoment:
    """Processor time at one moment: seconds of the whole machine (busy, stolen) and of this process."""

    wall_s: float
    busy_s: float
    stolen_s: float
    own_s: float

    @classmethod
    def now(cls) -> Self:
        """Read `/proc/stat` and this process' own time; zeros where the system has no such file."""
        own = time.process_time()
        try:
            words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        except OSError:
            return cls(time.monotonic(), 0.0, 0.0, own)
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words[:8]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = ticks + [0.0] * (8 - len(ticks))
        return cls(time.monotonic(), user + nice + system + irq + softirq, steal, own)


def foreign_share(before: CpuMoment, after: CpuMoment, cores: int | None = None) -> float:
    """Share of the cores, 0 to 1, that other processes and the hypervisor took between two moments."""
    wall = (after.wall_s - before.wall_s) * (cores or os.cpu_count() or usable_cores())
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    stolen = after.stolen_s - before.stolen_s
    return max(0.0, (others + stolen) / wall) if wall > 0 else 0.0


def cpu_reading() -> dict[str, Any]:
    """Clock in MHz of each core, load averages, governor and temperature in degrees C, as far as they can be read."""
    reading: dict[str, Any] = {"load_average": list(os.getloadavg())}
    lines = _lines("/proc/cpuinfo")
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    reading |= {"clock_mhz": clocks, "processor": names[0] if names else None}
    governor = _lines("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    reading["governor"] = governor[0] if governor else None
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    reading["temperature_c"] = [int(text[0]) / 1000 for zone in zones if (text := _lines(zone))]
    return reading


def gpu_reading(index: int = 0) -> dict[str, Any]:
    """Clocks, power, temperature, throttle reasons and foreign processes of one GPU by NVML; says so where it cannot.

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


def gpu_power_limit_w(index: int = 0) -> float | None:
    """The enforced power limit in watts, or None where NVML does not tell (MIG slices, containers)."""
    return gpu_reading(index).get("power_limit_w")


def reading(kind: str) -> dict[str, Any]:
    """All readings of the device of `kind` (`cpu` or `cuda`); the CPU's are taken in both cases."""
    facts: dict[str, Any] = {"cpu": cpu_reading()}
    if kind == "cuda":
        facts["gpu"] = gpu_reading()
    return facts


def gpu_flags(*readings: dict[str, Any]) -> list[str]:
    """`busy` and `throttled` where a GPU reading says so."""
    flags = []
    gpus = [facts["gpu"] for facts in readings if "gpu" in facts]
    others = sorted({name for gpu in gpus for name in gpu.get("other_processes") or []})
    if others:
        flags.append(f"busy: {', '.join(others)}")
    reasons = 0
    for gpu in gpus:
        reasons |= (gpu.get("throttle_reasons") or 0) & ~_HARMLESS_REASONS
    if reasons:
        flags.append(f"throttled: {reasons:#x}")
    return flags


def peak_rss_mib() -> float:
    """Peak resident memory of this process so far, in MiB (what it held before an exec does not count)."""
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    name = _lines(f"/proc/{pid}/comm")
    return f"{name[0] if name else 'process'} ({pid})"


def _asked(question: Any, *arguments: Any) -> Any:
    """The answer, or None where the device does not support the question."""
    import pynvml

    try:
        answer = question(*arguments)
    except (pynvml.NVMLError, AttributeError):
        return None
    return answer.decode() if isinstance(answer, bytes) else answer


def _milli(value: float | None) -> float | None:
    return None if value is None else value / 1000


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
