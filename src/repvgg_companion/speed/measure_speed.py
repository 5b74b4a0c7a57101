"""The `measure-speed` verb: speed settings go in; rows, raw samples and the run's JSON file come out.

Needs no Snakemake. With `--state` every finished group is kept at once, so that a programme that was stopped (or ran
into `--minutes`) goes on with the next group, and `--finish` writes the rows of what is there.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.files import read_json, short_digest, write_json
from repvgg_companion.progress import Progress
from repvgg_companion.runs import commit, environment, new_run_id, write_run
from repvgg_companion.speed.speed_settings import SpeedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `measure-speed` verb."""
    parser.add_argument("--experiment", required=True, help="name of the experiment, written into every row")
    parser.add_argument("--plan", required=True, help="speed settings as JSON, or a JSON file of them")
    parser.add_argument("--output", required=True, help="CSV of the rows")
    parser.add_argument("--samples", required=True, help="folder of the raw samples, DEVICE/RUN_ID.parquet")
    parser.add_argument("--runs", required=True, help="folder of the run's JSON file")
    parser.add_argument("--state", help="folder where finished groups are kept; a later call goes on from there")
    parser.add_argument("--minutes", type=float, help="end by then: no group is begun that will not fit; needs --state")
    parser.add_argument(
        "--finish", action="store_true", help="write the rows of the groups in --state, measure no more"
    )
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Measure everything that the plan names and write it."""
    settings = SpeedSettings.read(arguments.plan)
    if (arguments.minutes is not None or arguments.finish) and not arguments.state:
        raise CompanionError("--minutes and --finish need --state, the folder where finished groups are kept")
    if arguments.start is not None:
        _measure_start(settings, arguments, arguments.start)
        return
    if settings.process_starts > 1 and not arguments.state:
        with tempfile.TemporaryDirectory(prefix="measure-speed-") as folder:
            arguments.state = folder
            _measure_and_write(settings, arguments)
    else:
        _measure_and_write(settings, arguments)


def _measure_and_write(settings: SpeedSettings, arguments: argparse.Namespace) -> None:
    if settings.process_starts == 1:
        records = _measure_start(settings, arguments, 0)
    elif arguments.finish:
        records = [record for start in range(settings.process_starts)
                   for record in _measure_start(settings, arguments, start)]  # fmt: skip
    else:
        deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes is not None else None
        for start in range(settings.process_starts):
            _child(arguments, start, deadline)
        # Everything is measured now, so this only reads what the processes left.
        records = [record for start in range(settings.process_starts)
                   for record in _measure_start(settings, arguments, start)]  # fmt: skip
    if not records:
        raise CompanionError(f"{arguments.state} holds no finished group of this plan, device and commit; measure")
    _write(settings, arguments, records)


def _child(arguments: argparse.Namespace, start: int, deadline: float | None) -> None:
    """Run one process start; raises what its exit status means."""
    command = [sys.executable, "-m", "repvgg_companion", "measure-speed", "--start", str(start)]
    for name in ("experiment", "plan", "output", "samples", "runs", "state"):
        command += [f"--{name}", getattr(arguments, name)]
    if deadline is not None:
        command += ["--minutes", f"{max(0.0, (deadline - time.monotonic()) / 60):.3f}"]
    status = subprocess.run(command, check=False).returncode
    if status == 75:
        raise Interrupted(f"stopped with the finished groups in {arguments.state}; run the same command to go on")
    if status:
        raise CompanionError(f"process start {start} ended with status {status}; its message stands above")


def _measure_start(settings: SpeedSettings, arguments: argparse.Namespace, start: int) -> list[Any]:
    """Measure all groups that are not yet in the state folder, in this process; returns all records in order."""
    from repvgg_companion.machine.cpu import usable_cores
    from repvgg_companion.machine.device import choose_device, device_label
    from repvgg_companion.speed import programme
    from repvgg_companion.speed.group import GroupRecord, measure

    kind = choose_device(settings.device)
    settings = dataclasses.replace(settings, device=kind)
    import torch

    torch.set_num_threads(settings.threads or usable_cores())
    device = device_label(kind, cores=settings.threads or usable_cores())
    deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes is not None else None
    groups = list(programme.programme(settings))
    records, longest = [], _longest(arguments.state) if deadline is not None else 0.0
    measured, formats = 0, {}
    with Progress("measure-speed", total=len(groups) * settings.rounds, unit="rounds") as progress:
        for group in groups:
            kept = _kept(arguments.state, settings, device, group, start)
            if kept is not None and kept.exists():
                records.append(GroupRecord.from_dict(read_json(kept)))
                formats |= _formats(records[-1])
                progress.advance(settings.rounds)
                continue
            if arguments.finish:
                continue
            # The first group of a call is begun whenever there is time at all, or a long one would never be.
            now = time.monotonic() + (longest if measured else 0.0)
            if deadline is not None and now >= deadline:
                raise Interrupted(f"{len(records)} of {len(groups)} groups are measured and kept in {arguments.state}; "
                                  "run the same command to go on")  # fmt: skip
            progress.note(f"{group.condition.label}: {', '.join(network.name for network in group.networks)}")
            first = _kept(arguments.state, settings, device, group, 0)
            if first is not None and first.exists():
                formats |= _formats(GroupRecord.from_dict(read_json(first)))
            record = measure(group, settings, kind, start=start, on_round=progress.advance, formats=formats)
            records.append(record)
            formats |= _formats(record)
            measured, longest = measured + 1, max(longest, record.seconds)
            if kept is not None:
                write_json(kept, record.as_dict())
    return records


def _formats(record: Any) -> dict[tuple, str]:
    """The memory formats that a group's networks were measured in, for the next time that they are met."""
    from repvgg_companion.speed.group import format_key

    return {format_key(record.condition, member.model, member.form): member.memory_format
            for member in record.members if not member.reason}  # fmt: skip


def _longest(state: str) -> float:
    """Seconds of the longest group that lies in the state folder."""
    return max((read_json(path).get("seconds", 0.0) for path in Path(state).glob("group-*.json")), default=0.0)


def _kept(state: str | None, settings: SpeedSettings, device: str, group: Any, start: int) -> Path | None:
    """Where a finished group lies: everything that its samples depend on decides the name."""
    if state is None:
        return None
    how = {name: getattr(settings, name) for name in ("rounds", "input_px", "seed", "threads", "warm_up_seconds")}
    versions = environment()
    what = {
        "device": device,
        "commit": commit(),
        "versions": {package: versions.get(package) for package in ("torch", "onnxruntime", "openvino")},
        "group": dataclasses.asdict(group),
        "start": start,
        **how,
    }
    return Path(state) / f"group-{short_digest(what)}.json"


def _write(settings: SpeedSettings, arguments: argparse.Namespace, records: list[Any]) -> None:
    from repvgg_companion.machine.cpu import peak_rss_mib, usable_cores
    from repvgg_companion.machine.device import choose_device, device_label
    from repvgg_companion.speed.group import limits_of
    from repvgg_companion.speed.networks import ModelForm
    from repvgg_companion.speed.rows import speed_rows
    from repvgg_companion.speed.samples import Samples

    kind = choose_device(settings.device)
    device = device_label(kind, cores=settings.threads or usable_cores())
    run_id = new_run_id("measure-speed")
    samples = Samples(run_id, device, tuple(sample for record in records for sample in record.samples))
    limits = limits_of(settings, kind)

    def network(model: str, form: str = "train") -> ModelForm:
        return ModelForm(model, form, settings.width, settings.num_classes)

    ceilings = _ceilings(settings, records, kind)

    def roofline(row: dict[str, Any]) -> tuple[float | None, str]:
        return _share(row, ceilings.get(row["precision"]))

    rows = speed_rows(
        records,
        samples,
        experiment=arguments.experiment,
        width=settings.width,
        num_classes=lambda model: network(model).classes,
        params=lambda model, form: network(model, form).params(),
        drift_limit_pct=limits.drift_pct,
        spread_limit_pct=limits.spread_pct,
        roofline=roofline,
    )
    peak_mib = peak_rss_mib()
    if kind == "cpu" and peak_mib > settings.memory_limit_mib:
        for row in rows:
            note = f"process took {peak_mib:.0f} MiB of {settings.memory_limit_mib}"
            row["flags"] = "; ".join(filter(None, [row["flags"], note]))
    samples.write(arguments.samples)
    write_run(
        arguments.runs,
        run_id,
        verb="measure-speed",
        experiment=arguments.experiment,
        device=device,
        settings=settings.as_dict(),
        torch_flags=_torch_flags(kind),
        ceilings=[dataclasses.asdict(found) for found in ceilings.values()],
        work=_work(rows),
        process_peak_mib=peak_mib,
        groups=list(_facts(records)),
    )
    write_rows(arguments.output, "speed", rows)
    flagged = sum(bool(row["flags"]) for row in rows)
    print(f"{len(rows)} speed rows on {device}, {flagged} with flags, peak memory of the process {peak_mib:.0f} MiB")


def _ceilings(settings: SpeedSettings, records: list[Any], kind: str) -> dict[str, Any]:
    """The device's ceilings in every precision that was measured, by precision."""
    if not settings.roofline:
        return {}
    from repvgg_companion.speed.roofline import measure_ceilings

    measured = {sample.precision for record in records for sample in record.samples}
    return {precision: measure_ceilings(precision, kind) for precision in sorted(measured)}


def _share(row: dict[str, Any], ceilings: Any) -> tuple[float | None, str]:
    """Share of the roofline and a flag; an impossible row is flagged here, and refused among committed ones."""
    if ceilings is None:
        return None, ""
    from repvgg_companion.speed.roofline import judge, share

    try:
        flag = judge(row, ceilings)
    except CompanionError:
        flag = "implausible: above the Winograd ceiling"
    return share(row, ceilings), flag


def _work(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a batch of each measured network computes and moves; the roofline figure is drawn from it."""
    from repvgg_companion.speed.roofline import WORK_KEY, work_of_row

    measured = {tuple(row[name] for name in WORK_KEY): row for row in rows if row.get("roofline_share") is not None}
    return [work_of_row(row) for row in measured.values()]


def _facts(records: list[Any]) -> Iterator[dict[str, Any]]:
    """What the run's JSON file keeps of each group: all but the samples, with each network's percentiles."""
    from repvgg_companion.speed.samples import TIMED
    from repvgg_companion.speed.statistics import summary

    for record in records:
        facts = record.as_dict()
        facts["samples"] = {
            member.name: summary(seconds)
            for member in record.members
            if (seconds := [s.seconds for s in record.samples
                            if (s.model, s.form, s.role) == (member.model, member.form, TIMED)])
        }  # fmt: skip
        yield facts


def _torch_flags(kind: str) -> dict[str, Any]:
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
