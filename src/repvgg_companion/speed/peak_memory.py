"""Memory that the steps of a computation take: one recorder for whole networks and for single operators.

On a GPU the caching allocator counts; on a CPU the profiler's record of every allocation does, scratch space of the
convolutions included.
"""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from repvgg_companion.speed.alarm import undisturbed

MIB = 2**20
_MARK = "repvgg-companion-step"


class Recorder:
    """Records the peak of each `step` inside its `with` block; `peaks_mib` is complete when the block has ended."""

    def __init__(self, kind: str) -> None:
        self.peaks_mib: list[float] = []
        self._profile: torch.profiler.profile | None = None
        if kind == "cpu":
            activities = [torch.profiler.ProfilerActivity.CPU]
            self._profile = torch.profiler.profile(activities=activities, profile_memory=True)

    def __enter__(self) -> Self:
        if self._profile is not None:
            self._profile.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is None:
            return
        self._profile.__exit__(kind, error, trace)
        if error is None:
            profiler: Any = self._profile.profiler
            events = profiler.kineto_results.events()
            starts = sorted(event.start_ns() for event in events if event.name() == _MARK)
            changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
            for start, end in zip(starts, [*starts[1:], float("inf")], strict=True):
                self.peaks_mib.append(_peak(size for moment, size in changes if start <= moment < end) / MIB)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """One step: the most memory that it holds at once beyond what was held before it."""
        if self._profile is not None:
            with torch.profiler.record_function(_MARK):
                yield
            return
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield
        torch.cuda.synchronize()
        self.peaks_mib.append((torch.cuda.max_memory_allocated() - before) / MIB)


def _peak(changes: Iterable[int]) -> int:
    """The highest running sum of allocations (positive) and releases (negative), at least 0."""
    alive = highest = 0
    for change in changes:
        alive += change
        highest = max(highest, alive)
    return highest


def held_mib(module: nn.Module, inputs: list[torch.Tensor]) -> float:
    """Memory of all parameters, buffers and inputs in MiB."""
    tensors = [*module.parameters(), *module.buffers(), *inputs]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def peak_call_mib(call: Callable[[], object], kind: str) -> float:
    """The most memory in MiB that one call holds at once beyond what was held before it."""
    gc.collect()
    with undisturbed(), Recorder(kind) as recorder, recorder.step():
        call()
    return recorder.peaks_mib[0]
