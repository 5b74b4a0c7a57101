"""Clocks that measure seconds per batch on the device that does the work.

A GPU works on after the call has returned, so its clock records events on the device and waits for them once, after
the last batch; the guard refuses a clock that stops before the work has ended.
"""

import time
from collections.abc import Callable
from itertools import pairwise

from repvgg_companion.errors import CompanionError

Call = Callable[[], object]
CHECKS = 5
"""How often a clock is compared with the wall before it is refused."""


class CpuClock:
    """The monotonic clock of the machine; on a CPU a call has ended when it returns."""

    def time_block(self, call: Call, iterations: int) -> float:
        """Seconds per call over `iterations` calls in a row."""
        start = time.perf_counter_ns()
        for _ in range(iterations):
            call()
        return (time.perf_counter_ns() - start) / 1e9 / iterations

    def time_each(self, call: Call, iterations: int) -> list[float]:
        """Seconds of each of `iterations` calls in a row."""
        return [self.time_block(call, 1) for _ in range(iterations)]

    def synchronize(self) -> None:
        """Nothing to wait for."""


class CudaClock:
    """Events on the current stream of a CUDA device, resolved with one synchronisation after the last call."""

    def __init__(self) -> None:
        import torch

        self._event = lambda: torch.cuda.Event(enable_timing=True)
        self._synchronize = torch.cuda.synchronize

    def time_block(self, call: Call, iterations: int) -> float:
        """Seconds per call over `iterations` calls in a row; no synchronisation between them."""
        start, end = self._event(), self._event()
        # The device is idle here, so the first launch would be timed as well; one untimed call covers it.
        call()
        start.record()
        for _ in range(iterations):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / iterations

    def time_each(self, call: Call, iterations: int) -> list[float]:
        """Seconds of each of `iterations` calls in a row: an event between any two, one synchronisation at the end."""
        events = [self._event() for _ in range(iterations + 1)]
        call()
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        events[-1].synchronize()
        return [first.elapsed_time(second) / 1e3 for first, second in pairwise(events)]

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        self._synchronize()


Clock = CpuClock | CudaClock
"""How time is taken on a kind of device."""


def clock_for(kind: str) -> Clock:
    """The clock of a device of `kind`, `cpu` or `cuda`."""
    return CudaClock() if kind == "cuda" else CpuClock()


def require_synchronised(clock: Clock, call: Call, wait: Call) -> None:
    """Check a clock against wall time, from an idle device until `wait()` returns, when the work has ended.

    Raises CompanionError if the clock saw less than 70 % of the wall time of the same calls, as a clock without
    synchronisation does. Other processes lengthen the wall time too; so it is tried several times, and one agreement
    is enough. `wait` must truly wait for the device, whatever the clock does.
    """
    iterations = 3
    # A device clock makes one call more than it times.
    calls = iterations + 1 if isinstance(clock, CudaClock) else iterations
    for _ in range(CHECKS):
        wait()
        started = time.perf_counter()
        seen = clock.time_block(call, iterations) * iterations
        wait()
        wall = time.perf_counter() - started
        if seen * calls / iterations >= 0.7 * wall - 0.002:
            return
    raise CompanionError(
        f"the clock saw {seen * 1e3:.1f} ms of work that took {wall * 1e3:.1f} ms until the device was idle again; "
        "it stops before the work has ended, so its times mean nothing: synchronise before reading it"
    )
