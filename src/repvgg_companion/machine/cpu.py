"""Readings of the CPU: usable cores, processor time, clocks, load and peak memory. No torch.

Everything is only read, nothing is set.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

BUSY_SHARE = 0.10
"""Share of the cores that other processes may take before the rows are flagged."""


def usable_cores() -> int:
    """Cores that this process may run on (a cpuset or `taskset` lowers it below the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def busy_flags(share: float) -> list[str]:
    """The flag of a measurement during which other processes took more than `BUSY_SHARE` of the cores."""
    return [f"busy: other processes took {100 * share:.0f} % of the cores"] if share > BUSY_SHARE else []


def foreign_share(before: CpuMoment, after: CpuMoment, cores: int | None = None) -> float:
    """Share of the cores, 0 to 1, that other processes and the hypervisor took between two moments."""
    wall = (after.wall_s - before.wall_s) * (cores or os.cpu_count() or usable_cores())
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    stolen = after.stolen_s - before.stolen_s
    return max(0.0, (others + stolen) / wall) if wall > 0 else 0.0


def cpu_reading() -> dict[str, Any]:
    """Clock in MHz of each core, load averages, governor and temperature in degrees C, as far as they can be read."""
    reading: dict[str, Any] = {"load_average": list(os.getloadavg())}
    lines = lines_of("/proc/cpuinfo")
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    reading |= {"clock_mhz": clocks, "processor": names[0] if names else None}
    governor = lines_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    reading["governor"] = governor[0] if governor else None
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    reading["temperature_c"] = [int(text[0]) / 1000 for zone in zones if (text := lines_of(zone))]
    return reading


def peak_rss_mib() -> float:
    """Peak resident memory of this process so far, in MiB (what it held before an exec does not count)."""
    for line in lines_of("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lines_of(path: str | Path) -> list[str]:
    """The lines of a system file; none if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def process_age_s() -> float:
    """How long this process has run (imports included); 0 if /proc does not tell."""
    try:
        ticks = float(Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0
