"""The `measure-kernel-sizes` verb: Table 1 on this device. A shape goes in; one row per kernel size comes out.

The paper's shape is 32 images, 2048 channels, 56 px, stride 1; a CPU measures a smaller one, which the rows name. A
stride-2 3x3 convolution of equal FLOPs runs beside the others: where it is clearly slower, the stride-1 one is
accelerated by Winograd (footnote 3 of the paper); the run's JSON file holds the comparison.
"""

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.progress import Progress
from repvgg_companion.runs import new_run_id, write_run
from repvgg_companion.speed.speed_settings import LEAST_ROUNDS, MEMORY_FORMATS, PRECISIONS, read_plan

KERNEL_SIZES = (1, 3, 5, 7)
WINOGRAD_MARGIN = 1.2
"""A stride-2 convolution that takes so many times as long as a stride-1 one of equal FLOPs counts as clearly slower."""
_STRIDED = "Conv-3x3-stride-2"


@dataclass(frozen=True)
class KernelSettings:
    """What Table 1 measures here; without `precisions` fp32 on a CPU, and fp32, TF32 and bf16 on a GPU."""

    batch_size: int = 32
    channels: int = 2048
    resolution_px: int = 56
    rounds: int = LEAST_ROUNDS
    precisions: tuple[str, ...] = ()
    memory_formats: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        for key, least in (("batch_size", 1), ("channels", 1), ("resolution_px", 1), ("rounds", LEAST_ROUNDS),
                           ("threads", 0)):  # fmt: skip
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise CompanionError(f"kernel_size.{key} is {value!r}; it must be a whole number of at least {least}")
        for key, known in (("precisions", PRECISIONS), ("memory_formats", MEMORY_FORMATS[:2])):
            object.__setattr__(self, key, tuple(getattr(self, key)))
            if unknown := [value for value in getattr(self, key) if value not in known]:
                raise CompanionError(f"kernel_size.{key} names {unknown[0]!r}; known are {', '.join(known)}")

    @classmethod
    def read(cls, plan: str) -> "KernelSettings":
        """Read settings from JSON text or a JSON file; raises CompanionError where a key is unknown."""
        values = read_plan(plan)
        if unknown := sorted(set(values) - set(cls.__dataclass_fields__)):
            raise CompanionError(f"kernel_size.{unknown[0]} is no known key; known are "
                                 f"{', '.join(cls.__dataclass_fields__)}")  # fmt: skip
        return cls(**values)

    def conditions(self, kind: str) -> list[tuple[str, str]]:
        """Pairs of precision and memory format; Winograd needs contiguous fp32, tensor cores prefer channels_last."""
        precisions = self.precisions or (("fp32", "tf32", "bf16") if kind == "cuda" else ("fp32",))
        formats = self.memory_formats or (("contiguous", "channels_last") if kind == "cuda" else ("contiguous",))
        return [(precision, memory_format) for precision in precisions for memory_format in formats]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `measure-kernel-sizes` verb."""
    parser.add_argument("--experiment", required=True, help="name of the experiment, written into every row")
    parser.add_argument("--plan", default="{}", help="batch_size, channels, resolution_px, rounds as JSON")
    parser.add_argument("--output", required=True, help="CSV of the rows")
    parser.add_argument("--samples", required=True, help="folder of the raw samples, DEVICE/RUN_ID.parquet")
    parser.add_argument("--runs", required=True, help="folder of the run's JSON file")


def run(arguments: argparse.Namespace) -> None:
    """Measure every kernel size in turn, under each condition, and write the rows."""
    settings = KernelSettings.read(arguments.plan)
    import torch

    from repvgg_companion.machine.cpu import usable_cores
    from repvgg_companion.machine.device import choose_device, device_label, machine_state
    from repvgg_companion.speed.samples import Samples

    kind = choose_device(settings.device)
    cores = settings.threads or usable_cores()
    torch.set_num_threads(cores)
    run_id = new_run_id("measure-kernel-sizes")
    before = machine_state(kind)
    conditions = settings.conditions(kind)
    parts = []
    with Progress("measure-kernel-sizes", total=len(conditions) * settings.rounds, unit="rounds") as progress:
        for precision, memory_format in conditions:
            parts.append(_measure(settings, kind, precision, memory_format, progress.advance))
    device = device_label(kind, cores=cores)
    samples = Samples(run_id, device, tuple(sample for part in parts for sample in part["samples"]))
    rows = [row for part in parts for row in _rows(part, samples, settings)]
    for row in rows:
        row |= {"experiment": arguments.experiment, "run_id": run_id, "device": device}
    samples.write(arguments.samples)
    write_run(
        arguments.runs,
        run_id,
        verb="measure-kernel-sizes",
        experiment=arguments.experiment,
        device=device,
        settings=asdict(settings),
        winograd=[_winograd(part, samples) for part in parts],
        drift_pct=[part["drift_pct"] for part in parts],
        ceilings=_ceilings(rows, kind),
        readings={"before": before, "after": machine_state(kind)},
    )
    write_rows(arguments.output, "kernel_size", rows)
    print(f"{len(rows)} kernel size rows on {device}")


def _measure(settings: KernelSettings, kind: str, precision: str, memory_format: str, on_round: Any) -> dict[str, Any]:
    import torch

    from repvgg_companion.machine.cpu import BUSY_SHARE, CpuMoment, foreign_share
    from repvgg_companion.machine.torch_device import free_memory, set_precision
    from repvgg_companion.speed.clocks import clock_for, require_synchronised
    from repvgg_companion.speed.harness import LIMITS, Subject, measure_group

    part: dict[str, Any] = {"precision": precision, "memory_format": memory_format, "samples": [], "reasons": {},
                            "drift_pct": 0.0, "flags": []}  # fmt: skip
    clock, subjects = clock_for(kind), []
    with torch.inference_mode():
        for name, size, stride in [*((f"Conv-{k}x{k}", k, 1) for k in KERNEL_SIZES), (_STRIDED, 3, 2)]:
            try:
                set_precision(precision, kind)
                subjects.append(Subject(name, _convolution(settings, kind, precision, memory_format, size, stride)))
            except CompanionError as error:
                part["reasons"][name] = str(error)
            except torch.OutOfMemoryError:
                part["reasons"][name] = "out of memory"
        if not subjects:
            return part
        if kind == "cuda":
            require_synchronised(clock, subjects[0].call, torch.cuda.synchronize)
        began = CpuMoment.now()
        result = measure_group(subjects, clock, rounds=settings.rounds, limits=LIMITS[kind], on_round=on_round)
    if (share := foreign_share(began, CpuMoment.now())) > BUSY_SHARE:
        part["flags"].append(f"busy: other processes took {100 * share:.0f} % of the cores")
    part["drift_pct"] = result.drift_pct()
    if abs(result.drift_pct()) > LIMITS[kind].drift_pct:
        part["flags"].append(f"drift {result.drift_pct():+.1f} %")
    part["samples"] = _samples(result, settings, precision, memory_format)
    subjects.clear()
    free_memory(kind)
    return part


def _convolution(
    settings: KernelSettings, kind: str, precision: str, memory_format: str, size: int, stride: int
) -> Any:
    """One call of a bias-free convolution whose output is `resolution_px` wide, whatever its stride."""
    import torch

    from repvgg_companion.machine.torch_device import DTYPES

    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    generator = torch.Generator().manual_seed(size)
    where = {"device": kind, "dtype": DTYPES[precision], "memory_format": layout}
    px = settings.resolution_px * stride
    images = torch.randn(settings.batch_size, settings.channels, px, px, generator=generator).to(**where)
    scale = (settings.channels * size * size) ** -0.5
    weight = torch.randn(settings.channels, settings.channels, size, size, generator=generator).mul_(scale).to(**where)

    def call() -> object:
        return torch.nn.functional.conv2d(images, weight, None, stride, size // 2)

    if call().shape[-1] != settings.resolution_px:
        raise AssertionError("the convolution does not keep the resolution")
    return call


def _samples(result: Any, settings: KernelSettings, precision: str, memory_format: str) -> list[Any]:
    from repvgg_companion.speed.samples import DRIFT_CHECK, TIMED, Sample

    return [
        Sample(f"{precision} {memory_format}", 0, timing.round, timing.position, role, timing.subject, "deploy",
               "interleaved", precision, memory_format, "eager", settings.batch_size, settings.resolution_px,
               timing.iterations, timing.seconds)
        for role, timings in ((TIMED, result.timings), (DRIFT_CHECK, result.drift_check))
        for timing in timings
    ]  # fmt: skip


def _rows(part: dict[str, Any], samples: Any, settings: KernelSettings) -> list[dict[str, Any]]:
    from repvgg_companion.speed.harness import LIMITS
    from repvgg_companion.speed.statistics import median_interval, spread_pct

    rows = []
    limit = LIMITS["cpu" if samples.device.startswith("cpu") else "cuda"].spread_pct
    for size in KERNEL_SIZES:
        name = f"Conv-{size}x{size}"
        row = {
            "protocol": "interleaved",
            "precision": part["precision"],
            "memory_format": part["memory_format"],
            "backend": "eager",
            "kernel_size": size,
            "batch_size": settings.batch_size,
            "channels": settings.channels,
            "resolution_px": settings.resolution_px,
            "n_samples": 0,
        }
        rows.append(row)
        if name in part["reasons"]:
            row["flags"] = f"not measured: {part['reasons'][name]}"
            continue
        seconds = times_of(row, samples)
        time = median_interval(seconds)
        row |= {"time_ms": 1e3 * time.value, "low_ms": 1e3 * time.low, "high_ms": 1e3 * time.high, "n_samples": time.n}
        row["tflops"] = 2 * macs(settings, size) / time.value / 1e12
        flags = list(part["flags"])
        if (spread := spread_pct(seconds)) > limit:
            flags.append(f"spread {spread:.0f} %")
        row["flags"] = "; ".join(flags)
    return rows


def _ceilings(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The device's ceilings in every precision that was measured; contributed rows are judged by them."""
    from repvgg_companion.speed.roofline import measure_ceilings

    measured = sorted({row["precision"] for row in rows if row["n_samples"]})
    return [asdict(measure_ceilings(precision, kind)) for precision in measured]


def times_of(row: dict[str, Any], samples: Any) -> list[float]:
    """The raw seconds behind a row of `kernel_size.csv`; raises CompanionError where there are none."""
    name = f"Conv-{row['kernel_size']}x{row['kernel_size']}"
    key = (name, "deploy", row["protocol"], row["precision"], row["memory_format"], row["backend"], row["batch_size"],
           row["resolution_px"])  # fmt: skip
    return [sample.seconds for sample in samples.of(key)]


def macs(settings: KernelSettings, size: int) -> int:
    """Multiply-adds of one convolution: batch x in x out x H x W x k^2 (Table 1 of the paper counts them so)."""
    return settings.batch_size * settings.channels**2 * settings.resolution_px**2 * size**2


def _winograd(part: dict[str, Any], samples: Any) -> dict[str, Any]:
    """Whether the stride-1 3x3 convolution is accelerated, by the paper's test."""
    from repvgg_companion.speed.samples import key_of

    facts: dict[str, Any] = {"precision": part["precision"], "memory_format": part["memory_format"]}
    if not part["samples"] or {"Conv-3x3", _STRIDED} & set(part["reasons"]):
        return facts | {"accelerated": None}
    first = part["samples"][0]
    keys = [(name, *key_of(first)[1:]) for name in ("Conv-3x3", _STRIDED)]
    ratio = samples.ratio(*keys)
    return facts | {"stride_2_over_stride_1": asdict(ratio), "accelerated": ratio.low > WINOGRAD_MARGIN}
