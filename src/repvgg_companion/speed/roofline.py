"""Roofline: a device's measured ceilings and a network's layers go in, the least time and a row's share of it come out.

The ceiling of compute is a matrix product on a GPU, and a large convolution on a CPU, where the matrix product is a
wrong one (oneDNN's convolutions run at twice its rate). Each layer needs at least the larger of its compute time and
the time to move its weights and feature maps once; a network needs the sum over its layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from repvgg_companion.complexity.layers import WINOGRAD_RATIO, Layer, trace_layers
from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.torch_device import DTYPES, set_precision
from repvgg_companion.speed.clocks import clock_for
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.speed.rows import ABOVE_DIRECT

REPEATS = 8
_CPU_CONVOLUTIONS = ((4, 64, 56), (4, 128, 28), (4, 128, 56), (4, 256, 28), (4, 256, 14), (4, 512, 14), (16, 128, 28))
"""Batch, channels and side of the 3x3 convolutions tried on a CPU; the fastest is the ceiling."""
_GPU_MATRICES = (4096, 8192, 12288)
"""Sides of the matrices tried on a GPU; the fastest product is the ceiling."""
_COPY_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}
"""On a CPU a copy the size of a layer's tensors, which stay in its caches; on a GPU one that no cache holds."""


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches at most: operations per second (a multiply-add is two) and bytes per second."""

    precision: str
    operations_per_s: float
    bytes_per_s: float
    how: str


WORK_KEY = ("model", "form", "precision", "batch_size", "input_px")
"""What the work of a batch depends on."""


def measure_ceilings(precision: str, kind: str) -> Ceilings:
    """Measure the ceilings of this device in one precision, in a second or two; a ceiling is the best of 8 runs.

    Raises CompanionError where the device does not have the precision.
    """
    set_precision(precision, kind)
    clock = clock_for(kind)
    with torch.inference_mode():
        best, how = 0.0, ""
        for name, work, call in _candidates(precision, kind):
            call()
            rate = work / min(clock.time_block(call, 1) for _ in range(REPEATS))
            if rate > best:
                best, how = rate, name
        source = torch.randn(_COPY_BYTES[kind] // 4, device=kind)
        target = torch.empty_like(source)
        target.copy_(source)
        seconds = min(clock.time_block(lambda: target.copy_(source), 4) for _ in range(REPEATS))
    # A copy reads and writes.
    return Ceilings(precision, best, 2 * _COPY_BYTES[kind] / seconds, how)


def _candidates(precision: str, kind: str):
    dtype = DTYPES[precision]
    if kind == "cuda":
        for side in _GPU_MATRICES:
            left, right = (torch.randn(side, side, device=kind, dtype=dtype) for _ in range(2))
            yield f"matrix product {side}", 2 * side**3, lambda left=left, right=right: left @ right
        return
    for batch, channels, px in _CPU_CONVOLUTIONS:
        images = torch.randn(batch, channels, px, px).to(dtype=dtype, memory_format=torch.channels_last)
        weight = (torch.randn(channels, channels, 3, 3) * 0.02).to(dtype=dtype)
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, [1, 1], [1, 1], [1, 1], 1, list(images.shape))

        def call(images: torch.Tensor = images, packed: torch.Tensor = packed) -> torch.Tensor:
            return torch.ops.mkldnn._convolution_pointwise.default(
                images, packed, None, [1, 1], [1, 1], [1, 1], 1, "none", [], ""
            )

        work = 2 * batch * channels**2 * 9 * px * px
        yield f"3x3 convolution, {channels} channels, {px} px, batch {batch}", work, call


@cache
def layers_of(network: ModelForm, input_px: int) -> tuple[Layer, ...]:
    """The convolutions and linear layers of a network in order, traced once."""
    return tuple(trace_layers(network.on_meta(), input_px))


def floor_seconds(layers: Sequence[Layer], batch_size: int, ceilings: Ceilings) -> float:
    """The least time of one batch: for each layer the larger of compute and memory time, added up."""
    return sum(
        max(operations / ceilings.operations_per_s, moved / ceilings.bytes_per_s)
        for operations, moved in work_of_layers(layers, batch_size, ceilings.precision)
    )


def work_of_layers(layers: Sequence[Layer], batch_size: int, precision: str) -> list[tuple[int, int]]:
    """For each layer the operations of one batch and the bytes of its weights and feature maps, each moved once."""
    size = torch.empty(0, dtype=DTYPES[precision]).element_size()
    work = []
    for layer in layers:
        maps = layer.in_channels * (layer.output_px * layer.stride) ** 2 + layer.out_channels * layer.output_px**2
        work.append((2 * layer.flops * batch_size, size * (layer.params + batch_size * maps)))
    return work


def work_of_row(row: dict[str, Any]) -> dict[str, Any]:
    """Operations and bytes of one batch of a measured row, with what names the row; kept in the run's JSON file."""
    work = work_of_layers(layers_of(network_of(row), row["input_px"]), row["batch_size"], row["precision"])
    operations, moved = (sum(column) for column in zip(*work, strict=True))
    return {name: row[name] for name in WORK_KEY} | {"operations": int(operations), "bytes": int(moved)}


def fastest_examples_per_s(layers: Sequence[Layer], ceilings: Ceilings, *, winograd: bool) -> float:
    """Examples per second at the ceiling of compute alone, by direct convolutions or with 4/9 of the multiplications
    wherever F(2x2, 3x3) can compute a layer."""
    macs = sum(layer.flops * (WINOGRAD_RATIO if winograd and layer.winograd_shape else 1) for layer in layers)
    return ceilings.operations_per_s / (2 * float(macs))


def network_of(row: dict[str, Any]) -> ModelForm:
    """The network that a row of `speed.csv` belongs to."""
    return ModelForm(row["model"], row["form"], row["width"], row["num_classes"])


def share(row: dict[str, Any], ceilings: Ceilings) -> float:
    """The part of its roofline that a measured row reaches: least time over measured time of one batch."""
    layers = layers_of(network_of(row), row["input_px"])
    return floor_seconds(layers, row["batch_size"], ceilings) * row["examples_per_s"] / row["batch_size"]


PLAUSIBLE = 1.1
"""A row may be so many times as fast as the Winograd ceiling, because a ceiling is itself measured."""


def judge(row: dict[str, Any], ceilings: Ceilings) -> str:
    """A flag for a row above the direct-convolution ceiling (Winograd is real), empty for an ordinary one.

    Raises CompanionError for a row faster than 1.1 times the ceiling computed from Wino MULs: no device does that.
    """
    layers = layers_of(network_of(row), row["input_px"])
    speed = row["examples_per_s"]
    limit = PLAUSIBLE * fastest_examples_per_s(layers, ceilings, winograd=True)
    if speed > limit:
        raise CompanionError(
            f"{row['model']} ({row['form']}, {row['precision']}, batch {row['batch_size']}) at {speed:.0f} examples/s "
            f"is above {limit:.0f}, 1.1 times what {row['device']} can compute with Winograd convolutions; the time "
            "was not taken until the work had ended"
        )
    direct = fastest_examples_per_s(layers, ceilings, winograd=False)
    return ABOVE_DIRECT if speed > direct else ""
