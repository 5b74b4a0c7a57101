"""The device's ceilings, measured in the rounds of each group like a network.

The ceiling of compute is a matrix product on a GPU and a large convolution on a CPU, where oneDNN's convolutions run at
twice the rate of its matrix product. The ceiling of memory is a copy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from repvgg_companion.machine.torch_device import DTYPES
from repvgg_companion.speed.clocks import clock_for
from repvgg_companion.speed.group_record import CEILING_NAMES, CeilingWork, GroupRecord
from repvgg_companion.speed.harness import Subject
from repvgg_companion.speed.roofline import Ceilings

REPEATS = 5
_CPU_CONVOLUTIONS = ((4, 64, 56), (4, 128, 28), (4, 128, 56), (4, 256, 28), (4, 256, 14), (4, 512, 14), (16, 128, 28))
"""Batch, channels and side of the 3x3 convolutions tried on a CPU; the fastest is the ceiling."""
_GPU_MATRICES = (4096, 8192, 12288)
"""Sides of the matrices tried on a GPU; the fastest product is the ceiling."""
_COPY_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}
"""On a CPU a copy the size of a layer's tensors, which stay in its caches; on a GPU one that no cache holds."""


def ceiling_subjects(precision: str, kind: str) -> tuple[CeilingWork, list[Subject]]:
    """The two ceilings of this device in one precision, ready to be measured beside networks."""
    candidate = list(_candidates(precision, kind))[_fastest(precision, kind)]
    source = torch.randn(_COPY_BYTES[kind] // 4, device=kind)
    target = torch.empty_like(source)
    calls = (candidate.make(), lambda: target.copy_(source))
    # A copy reads and writes.
    work = CeilingWork(candidate.operations, 2 * _COPY_BYTES[kind], candidate.name)
    return work, [Subject(name, call) for name, call in zip(CEILING_NAMES, calls, strict=True)]


def ceilings_of(records: Sequence[GroupRecord]) -> dict[str, Ceilings]:
    """The ceilings by precision: the medians of the rounds, in the group where they are highest."""
    found: dict[str, Ceilings] = {}
    for record in records:
        rates = np.array(list(record.ceiling_rates().values()))
        if record.ceiling is None or not len(rates):
            continue
        precision = record.condition["precision"]
        operations, moved = (float(value) for value in np.median(rates, axis=0))
        if (best := found.get(precision)) is not None:
            how = best.how if best.operations_per_s > operations else record.ceiling.how
            operations, moved = max(operations, best.operations_per_s), max(moved, best.bytes_per_s)
            found[precision] = Ceilings(precision, operations, moved, how)
        else:
            found[precision] = Ceilings(precision, operations, moved, record.ceiling.how)
    return found


@dataclass(frozen=True)
class _Candidate:
    name: str
    operations: int
    make: Callable[[], Callable[[], object]]


@cache
def _fastest(precision: str, kind: str) -> int:
    """Which candidate reaches the most operations per second; found once in a process."""
    clock, rates = clock_for(kind), []
    for candidate in _candidates(precision, kind):
        call = candidate.make()
        call()
        rates.append(candidate.operations / min(clock.time_block(call, 1) for _ in range(REPEATS)))
    return int(np.argmax(rates))


def _candidates(precision: str, kind: str) -> Iterator[_Candidate]:
    dtype = DTYPES[precision]
    if kind == "cuda":
        for side in _GPU_MATRICES:
            yield _Candidate(f"matrix product {side}", 2 * side**3, partial(_product, side, dtype))
        return
    for batch, channels, px in _CPU_CONVOLUTIONS:
        name = f"3x3 convolution, {channels} channels, {px} px, batch {batch}"
        operations = 2 * batch * channels**2 * 9 * px * px
        yield _Candidate(name, operations, partial(_convolution, batch, channels, px, dtype))


def _product(side: int, dtype: torch.dtype) -> Callable[[], object]:
    left, right = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    return lambda: left @ right


def _convolution(batch: int, channels: int, px: int, dtype: torch.dtype) -> Callable[[], object]:
    images = torch.randn(batch, channels, px, px).to(dtype=dtype, memory_format=torch.channels_last)
    weight = (torch.randn(channels, channels, 3, 3) * 0.02).to(dtype=dtype)
    one = [1, 1]
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, one, one, one, 1, list(images.shape))
    convolve = torch.ops.mkldnn._convolution_pointwise.default
    return lambda: convolve(images, packed, None, one, one, one, 1, "none", [], "")
