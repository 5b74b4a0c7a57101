"""Roofline: the least time of a network on a device with given ceilings, and whether a measured row is possible.

Each layer needs at least the larger of its compute time and the time to move its weights and feature maps once; a
network needs the sum over its layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from repvgg_companion.complexity.layers import WINOGRAD_RATIO, Layer, trace_layers
from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.torch_device import DTYPES
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.speed.samples import Sample
from repvgg_companion.speed.statistics import Interval, median_interval

ABOVE_DIRECT = "above the direct-convolution ceiling"
"""The flag of a row that a device reaches only with fewer multiplications, as Winograd's."""
UNRELIABLE = "unreliable ceiling: a direct convolution is above it"
"""The flag of a row above the ceiling whose backend has no algorithm with fewer multiplications."""
PLAUSIBLE = 1.1
"""A row may be this many times as fast as the Winograd ceiling, because a ceiling is itself measured."""
WORK_KEY = ("model", "form", "precision", "batch_size", "input_px")
"""What the work of a batch depends on."""


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches at most: operations per second (a multiply-add is two) and bytes per second."""

    precision: str
    operations_per_s: float
    bytes_per_s: float
    how: str


@cache
def layers_of(network: ModelForm, input_px: int) -> tuple[Layer, ...]:
    """The convolutions and linear layers of a network in order, traced once."""
    return tuple(trace_layers(network.on_meta(), input_px))


def work_of_layers(layers: Sequence[Layer], batch_size: int, precision: str) -> list[tuple[int, int]]:
    """Operations and bytes of one batch for each layer; weights and feature maps are each moved once."""
    size = torch.empty(0, dtype=DTYPES[precision]).element_size()
    work = []
    for layer in layers:
        maps = layer.in_channels * (layer.output_px * layer.stride) ** 2 + layer.out_channels * layer.output_px**2
        work.append((2 * layer.flops * batch_size, size * (layer.params + batch_size * maps)))
    return work


def floor_seconds(work: Sequence[tuple[int, int]], operations_per_s: float, bytes_per_s: float) -> float:
    """The least time of one batch: for each layer the larger of compute and memory time, added up."""
    return sum(max(operations / operations_per_s, moved / bytes_per_s) for operations, moved in work)


def work_of(row: Mapping[str, Any]) -> list[tuple[int, int]]:
    """`work_of_layers` of the network and the batch of a measured row."""
    return work_of_layers(layers_of(network_of(row), row["input_px"]), row["batch_size"], row["precision"])


def work_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Operations and bytes of one batch of a measured row, with what names the row; kept in the run's JSON file."""
    operations, moved = (sum(column) for column in zip(*work_of(row), strict=True))
    return {name: row[name] for name in WORK_KEY} | {"operations": int(operations), "bytes": int(moved)}


def share_of_roofline(
    row: Mapping[str, Any], samples: Sequence[Sample], rates: Mapping[tuple[int, str, int], tuple[float, float]]
) -> Interval | None:
    """The share of the roofline that a row reaches: in each round the least time over the measured one.

    `rates` are the ceilings of the rounds, see `GroupRecord.ceiling_rates`. None if no ceiling was measured.
    """
    work = work_of(row)
    moments = [(sample.start, sample.group, sample.round) for sample in samples]
    shares = [
        floor_seconds(work, *rates[moment]) / sample.seconds
        for moment, sample in zip(moments, samples, strict=True)
        if moment in rates
    ]
    starts = [moment[0] for moment in moments if moment in rates]
    return median_interval(shares, strata=starts) if shares else None


def fastest_examples_per_s(layers: Sequence[Layer], ceilings: Ceilings, *, winograd: bool) -> float:
    """Examples per second at the ceiling of compute alone.

    By direct convolutions, or with 4/9 of the multiplications wherever F(2x2, 3x3) can compute a layer.
    """
    macs = sum(layer.flops * (WINOGRAD_RATIO if winograd and layer.winograd_shape else 1) for layer in layers)
    return ceilings.operations_per_s / (2 * float(macs))


def network_of(row: Mapping[str, Any]) -> ModelForm:
    """The network that a row of `speed.csv` belongs to."""
    return ModelForm(row["model"], row["form"], row["width"], row["num_classes"])


def above_ceiling(row: Mapping[str, Any]) -> str:
    """The flag of a row above the ceiling of direct convolutions: Winograd's algorithm, or an unreliable ceiling.

    cuDNN chooses Winograd's algorithm itself, but has none in bf16; on a CPU only the backend `winograd` uses it.
    """
    on_gpu = row["device"].startswith("gpu")
    return ABOVE_DIRECT if row["backend"] == "winograd" or (on_gpu and row["precision"] != "bf16") else UNRELIABLE


def judge(row: Mapping[str, Any], ceilings: Ceilings) -> str:
    """A flag for a row above the direct-convolution ceiling, empty for an ordinary one.

    Raises CompanionError for a row faster than 1.1 times the ceiling computed from Wino MULs: no device does that.
    """
    layers = layers_of(network_of(row), row["input_px"])
    speed = row["examples_per_s"]
    limit = PLAUSIBLE * fastest_examples_per_s(layers, ceilings, winograd=True)
    if speed > limit:
        raise CompanionError(
            f"{row['model']} ({row['form']}, {row['precision']}, batch {row['batch_size']}) at {speed:.0f} examples/s "
            f"is above {limit:.0f}, 1.1 times what {row['device']} can compute with Winograd convolutions; the time "
            "was taken before the work had ended"
        )
    above = speed > fastest_examples_per_s(layers, ceilings, winograd=False)
    return above_ceiling(row) if above or (row.get("roofline_share") or 0) > 1 else ""
