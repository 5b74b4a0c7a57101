"""The `measure-kernel-sizes` verb: Table 1 on this device, one row per kernel size.

The paper's shape is 32 images, 2048 channels, 56 px, stride 1; a CPU measures a smaller one, which the rows name. A
3x3 convolution of stride 2 and equal FLOPs runs beside the others, but not in channels_last on a GPU. If it is clearly
slower, the one of stride 1 is accelerated by Winograd's algorithm (footnote 3 of the paper). The run's JSON file holds
the comparison.
"""

import argparse
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from repvgg_companion.runs import new_run_id, write_run
from repvgg_companion.settings import request_of
from repvgg_companion.speed.effort import MeasureRequest, add_measure_arguments
from repvgg_companion.speed.speed_settings import KernelSettings

if TYPE_CHECKING:
    from repvgg_companion.speed.group_record import GroupRecord
    from repvgg_companion.speed.harness import Limits
    from repvgg_companion.speed.samples import Samples

WINOGRAD_MARGIN = 1.2
"""A stride-2 convolution that takes this many times as long as a stride-1 one of equal FLOPs is clearly slower."""


@dataclass(frozen=True, kw_only=True)
class MeasureKernelSizesRequest(MeasureRequest):
    """The request of the verb."""

    settings: KernelSettings
    samples: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `measure-kernel-sizes` verb."""
    parser.add_argument("--plan", default="{}", help="kernel size settings as JSON, a JSON file, or FILE#KEY")
    parser.add_argument("--samples", required=True, help="folder of the raw samples, DEVICE/RUN_ID.parquet")
    add_measure_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measure every kernel size in turn, under each condition, and write the rows."""
    settings = KernelSettings.read(arguments.plan)
    with request_of(MeasureKernelSizesRequest, arguments, settings=settings).with_folder() as request:
        measure_convolutions(request)


def measure_convolutions(request: MeasureKernelSizesRequest) -> None:
    """Measure every kernel size in turn, under each condition, and write the rows."""
    import torch

    from repvgg_companion.machine.cpu import usable_cores
    from repvgg_companion.machine.device import choose_device
    from repvgg_companion.speed.convolutions import convolution_groups, convolution_method
    from repvgg_companion.speed.finished_groups import FinishedGroups, measure_groups
    from repvgg_companion.speed.group_record import samples_of
    from repvgg_companion.speed.measure_speed import group_facts

    settings = request.settings
    kind = choose_device(settings.device)
    method = convolution_method(settings, kind, settings.threads or usable_cores())
    torch.set_num_threads(method.threads)
    groups = convolution_groups(settings, kind)
    kept = FinishedGroups(request.folder, method)
    records = measure_groups("measure-kernel-sizes", groups, kept, request.effort())
    request.require(records)
    run_id = new_run_id("measure-kernel-sizes")
    samples = samples_of(records, run_id, method.device)
    shared = {"experiment": request.experiment, "run_id": run_id, "device": method.device}
    rows = [shared | row for record in records for row in kernel_rows(record, samples, settings, method.limits)]
    samples.write(request.samples)
    write_run(
        request.runs,
        run_id,
        verb="measure-kernel-sizes",
        experiment=request.experiment,
        device=method.device,
        settings=settings.as_dict(),
        winograd=[winograd_facts(record, samples) for record in records],
        **group_facts(records, method.kind),
    )
    request.write("kernel_size", rows)
    print(f"{len(rows)} kernel size rows on {method.device}")


def kernel_rows(
    record: "GroupRecord", samples: "Samples", settings: KernelSettings, limits: "Limits"
) -> list[dict[str, Any]]:
    """The rows of one condition; the strided convolution has none."""
    from repvgg_companion.speed.convolutions import KERNEL_SIZES, macs
    from repvgg_companion.speed.statistics import median_interval, spread_pct

    rows = []
    for size, member in zip(KERNEL_SIZES, record.members, strict=False):
        row: dict[str, Any] = record.condition | {
            "kernel_size": size,
            "channels": settings.channels,
            "resolution_px": settings.resolution_px,
            "n_samples": 0,
        }
        rows.append(row)
        if member.reason:
            row["flags"] = f"not measured: {member.reason}"
            continue
        seconds = times_of(row, samples)
        time = median_interval(seconds)
        row |= {"time_ms": 1e3 * time.value, "low_ms": 1e3 * time.low, "high_ms": 1e3 * time.high, "n_samples": time.n}
        row["tflops"] = 2 * macs(settings, size) / time.value / 1e12
        flags = [*member.flags, *record.flags]
        if abs(record.drift_pct) > limits.drift_pct:
            flags.append(f"drift {record.drift_pct:+.1f} %")
        if (spread := spread_pct(seconds)) > limits.spread_pct:
            flags.append(f"spread {spread:.0f} %")
        row["flags"] = "; ".join(flags)
    return rows


def times_of(row: dict[str, Any], samples: "Samples") -> list[float]:
    """The raw seconds behind a row of `kernel_size.csv`; raises CompanionError if there are none."""
    name = f"Conv-{row['kernel_size']}x{row['kernel_size']}"
    condition = (row[name] for name in ("protocol", "precision", "memory_format", "backend", "batch_size"))
    return [sample.seconds for sample in samples.of((name, "deploy", *condition, row["resolution_px"]))]


def winograd_facts(record: "GroupRecord", samples: "Samples") -> dict[str, Any]:
    """Whether the stride-1 3x3 convolution is accelerated, by the paper's test."""
    facts = {name: record.condition[name] for name in ("precision", "memory_format")}
    members = {member.model: member for member in record.members}
    plain, strided = members["Conv-3x3"], members.get("Conv-3x3-stride-2")
    if strided is None or plain.reason or strided.reason:
        return facts | {"accelerated": None}
    condition = record.condition | {"input_px": plain.input_px}
    ratio = samples.ratio(
        condition | {"model": plain.model, "form": plain.form},
        condition | {"model": strided.model, "form": strided.form},
    )
    return facts | {"stride_2_over_stride_1": asdict(ratio), "accelerated": ratio.low > WINOGRAD_MARGIN}
