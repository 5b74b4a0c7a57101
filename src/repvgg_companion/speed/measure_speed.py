"""The `measure-speed` verb: examples per second of networks, with raw samples and the run's JSON file.

Needs no Snakemake. With `--state` every finished group is kept at once, so that a call that was stopped (or ran into
`--minutes`) goes on with the next group; `--finish` writes the rows of what is there.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.runs import new_run_id, write_run
from repvgg_companion.settings import request_of
from repvgg_companion.speed.effort import MeasureRequest, add_measure_arguments
from repvgg_companion.speed.speed_settings import SpeedSettings

if TYPE_CHECKING:
    from repvgg_companion.speed.group_record import GroupRecord


@dataclass(frozen=True, kw_only=True)
class MeasureSpeedRequest(MeasureRequest):
    """The request of the verb; `start` is the number of a process start, None in the parent process."""

    plan: str
    samples: str
    start: int | None = None

    def command(self, start: int, deadline: float | None) -> list[str]:
        """The command of one process start."""
        command = [sys.executable, "-m", "repvgg_companion", "measure-speed", "--start", str(start)]
        for name in ("experiment", "plan", "output", "samples", "runs", "state"):
            command += [f"--{name}", getattr(self, name)]
        if deadline is not None:
            command += ["--minutes", f"{max(0.0, (deadline - time.monotonic()) / 60):.3f}"]
        return command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `measure-speed` verb."""
    parser.add_argument("--plan", required=True, help="speed settings as JSON, a JSON file, or FILE#KEY")
    parser.add_argument("--samples", required=True, help="folder of the raw samples, DEVICE/RUN_ID.parquet")
    add_measure_arguments(parser)
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Measure everything that the plan names and write it."""
    request = request_of(MeasureSpeedRequest, arguments)
    settings = SpeedSettings.read(request.plan)
    if request.start is not None:
        measure_start(settings, request, request.start)
        return
    with request.with_folder() as request:
        _measure_and_write(settings, request)


def _measure_and_write(settings: SpeedSettings, request: MeasureSpeedRequest) -> None:
    starts = range(settings.process_starts)
    if settings.process_starts > 1 and not request.finish:
        deadline = request.effort().deadline
        for start in starts:
            _run_start(request, start, deadline)
        request = dataclasses.replace(request, minutes=None)  # everything is kept now and only read below
    records = [record for start in starts for record in measure_start(settings, request, start)]
    request.require(records)
    _write(settings, request, records)


def _run_start(request: MeasureSpeedRequest, start: int, deadline: float | None) -> None:
    """Run one process start; raises what its exit status means."""
    status = subprocess.run(request.command(start, deadline), check=False).returncode
    if status == 75:
        raise Interrupted(f"stopped with the finished groups in {request.state}; run the same command to go on")
    if status:
        raise CompanionError(f"process start {start} ended with status {status}; read its message above")


def measure_start(settings: SpeedSettings, request: MeasureSpeedRequest, start: int) -> list["GroupRecord"]:
    """Measure all groups that are not yet in the state folder, in this process; returns all records in order."""
    import torch

    from repvgg_companion.speed.finished_groups import FinishedGroups, measure_groups
    from repvgg_companion.speed.programme import Method, programme

    method = Method.of(settings)
    torch.set_num_threads(method.threads)
    kept = FinishedGroups(request.folder, method)
    groups = list(programme(dataclasses.replace(settings, device=method.kind)))
    return measure_groups("measure-speed", groups, kept, request.effort(), start=start)


def _write(settings: SpeedSettings, request: MeasureSpeedRequest, records: list["GroupRecord"]) -> None:
    from repvgg_companion.machine.cpu import peak_rss_mib
    from repvgg_companion.speed.group_record import samples_of
    from repvgg_companion.speed.programme import Method
    from repvgg_companion.speed.rows import RunOfGroups

    method = Method.of(settings)
    run_id = new_run_id("measure-speed")
    samples = samples_of(records, run_id, method.device)
    rows, work = RunOfGroups(records, samples, method.limits, settings.width, settings.num_classes).rows(
        request.experiment
    )
    peak_mib = peak_rss_mib()
    if method.kind == "cpu" and peak_mib > settings.memory_limit_mib:
        note = f"process took {peak_mib:.0f} MiB of {settings.memory_limit_mib}"
        for row in rows:
            row["flags"] = "; ".join(filter(None, [row["flags"], note]))
    samples.write(request.samples)
    write_run(
        request.runs,
        run_id,
        verb="measure-speed",
        experiment=request.experiment,
        device=method.device,
        settings=settings.as_dict(),
        work=work,
        process_peak_mib=peak_mib,
        **group_facts(records, method.kind),
    )
    request.write("speed", rows)
    flagged = sum(bool(row["flags"]) for row in rows)
    print(
        f"{len(rows)} speed rows on {method.device}, {flagged} with flags, peak memory of the process {peak_mib:.0f} "
        "MiB"
    )


def group_facts(records: list["GroupRecord"], kind: str) -> dict[str, Any]:
    """What a run's JSON file keeps of its groups: settings of torch, ceilings, and percentiles instead of samples."""
    from repvgg_companion.speed.ceilings import ceilings_of
    from repvgg_companion.speed.statistics import summary

    groups = []
    for record in records:
        seconds = {member.name: record.seconds_of(member) for member in record.members}
        groups.append(
            record.as_dict() | {"samples": {name: summary(times) for name, times in seconds.items() if times}}
        )
    ceilings = [dataclasses.asdict(ceiling) for ceiling in ceilings_of(records).values()]
    return {"torch_flags": _torch_flags(kind), "ceilings": ceilings, "groups": groups}


def _torch_flags(kind: str) -> dict[str, Any]:
    """The settings of torch that times depend on."""
    import torch

    flags: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if kind == "cuda":
        flags |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        }
    return flags
