"""Peak memory of one forward pass: a call goes in, MiB held by the network and at the highest moment come out.

On a GPU the caching allocator counts; on a CPU the profiler's record of every allocation does, scratch space of the
convolutions included. Both count weights, inputs, and what is alive at once beyond them.
"""

import gc
from collections.abc import Callable

import torch
from torch import nn

MIB = 2**20


def held_mib(module: nn.Module, inputs: list[torch.Tensor]) -> float:
    """Memory of all parameters, buffers and inputs in MiB."""
    tensors = [*module.parameters(), *module.buffers(), *inputs]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def peak_call_mib(call: Callable[[], object], device: str) -> float:
    """The most memory in MiB that one call holds at once beyond what was held before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        gc.collect()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        output = call()
        torch.cuda.synchronize()
        del output
        return (torch.cuda.max_memory_allocated() - before) / MIB
    alive = peak = 0
    for change in allocations(call):
        alive += change
        peak = max(peak, alive)
    return peak / MIB


def allocations(call: Callable[[], object]) -> list[int]:
    """Bytes of every allocation (positive) and release (negative) on the CPU during one call, in order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
