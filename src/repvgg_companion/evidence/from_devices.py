"""Rows of the class *measured here*: each device, precision and backend under `results/devices/`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.deciding import Answer, Claim, RowOrigin, is_exact, ledger_row
from repvgg_companion.evidence.evidence_classes import MEASURED_HERE
from repvgg_companion.models.names import require_model
from repvgg_companion.paper.claim_evidence import Evidence, evidence_for
from repvgg_companion.paper.comparable_runs import BEST, PAPER_SHAPE, has_paper_shape
from repvgg_companion.paper.grammar import Check, Comparison, Term, parse
from repvgg_companion.paper.named_checks import CHECKS, block_maps, needs_speed
from repvgg_companion.paper.ours import Results, Row
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import (
    CONTRADICTED,
    MET,
    NOT_MET,
    NOT_TESTED,
    REPRODUCED,
    Finding,
    judge,
    value_text,
)
from repvgg_companion.speed.samples import KEY

_MEMORY_CHECK = "residual-block-doubles-memory"


def check_device_folders(folder: Path) -> list[Path]:
    """The device folders; raises CompanionError with file and line for a row that cannot be used.

    A row needs a known model, the device of its folder, the raw samples of its run, and a key of its own. The verb
    `check-devices` checks the numbers themselves.
    """
    devices = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for device in devices:
        path = device / "speed.csv"
        if not path.exists():
            raise CompanionError(f"{path} does not exist; a device folder needs its rows and their raw samples")
        seen: dict[tuple, int] = {}
        for line, row in enumerate(read_rows(path, "speed"), start=2):
            where = f"{path} line {line}"
            try:
                require_model(row["model"])
            except CompanionError as error:
                raise CompanionError(f"{where}: {error}") from None
            if row["device"] != device.name:
                raise CompanionError(f"{where}: the device {row['device']} is not that of the folder {device.name}")
            key = (row["run_id"], *(row[name] for name in KEY))
            if key in seen:
                raise CompanionError(f"{where}: the same network and setting is already on line {seen[key]}")
            seen[key] = line
            samples = device / "speed" / device.name / f"{row['run_id']}.parquet"
            if not samples.exists():
                raise CompanionError(f"{where}: {samples} is missing; a row needs the raw samples of its run")
    return devices


def device_rows(claim: Claim, facts: Facts, results: Results) -> Iterator[dict[str, Any]]:
    """The rows of one claim, one for each device, precision and backend in which its networks were measured."""
    terms = parse(claim["condition"])
    quantities = [part for term in terms for part in term.quantities if part.name in ("speed", "density")]
    speeds = bool(quantities) or any(isinstance(term, Check) and needs_speed(term.name) for term in terms)
    for evidence in evidence_for(facts, results, quantities, speeds=speeds):
        if evidence.speeds is not None and evidence.speeds.backend == BEST:
            continue  # it repeats rows of the single backends
        answers = [answer for term in terms if (answer := _answer(term, evidence)) is not None]
        row = ledger_row(claim, _origin(evidence), answers, len(terms))
        if row is not None:
            yield row
    if any(part.name == "density" for part in quantities):
        yield from _other_shapes(claim, results)


_SHAPE_SETTING = ("run_id", "device", "precision", "backend", "memory_format")


def _other_shapes(claim: Claim, results: Results) -> Iterator[dict[str, Any]]:
    """Kernel sizes of another shape than the paper's, one row for each run and setting; they decide nothing."""
    terms = [term for term in parse(claim["condition"]) if isinstance(term, Comparison)]
    settings: dict[tuple, dict[str, Row]] = {}
    for row in results.rows("kernel_size"):
        if row["tflops"] is not None and not has_paper_shape(row):
            key = (*(row[name] for name in _SHAPE_SETTING), _shape(row))
            settings.setdefault(key, {})[str(row["kernel_size"])] = row
    for (run_id, device, precision, backend, memory_format, shape), rows in settings.items():
        if not all(part.subject in rows for term in terms for part in term.quantities):
            continue
        reason = f"measured with {shape}; the claim is about {_shape(PAPER_SHAPE)}"
        answers = []
        for term in terms:
            value = value_text(term, {part: rows[part.subject]["tflops"] for part in term.quantities})
            evidence = tuple(f"kernel_size.csv {run_id} {part.subject}" for part in term.quantities)
            finding = Finding(NOT_TESTED, NOT_TESTED, value, reason=reason, evidence=evidence)
            answers.append(Answer(term, finding, shown=True))
        setting = f"{precision}, {backend}, {memory_format}, {shape.split(', ')[0]}"
        origin = RowOrigin(MEASURED_HERE, "this companion", setting, device, [shape])
        shown = ledger_row(claim, origin, answers, len(terms))
        if shown is not None:
            yield shown


def _shape(row: Row) -> str:
    return f"batch {row['batch_size']}, {row['channels']} channels, {row['resolution_px']} px"


def _answer(term: Term, evidence: Evidence) -> Answer | None:
    if is_exact(term):
        return None
    if not isinstance(term, Check):
        return Answer(term, judge(term, evidence))
    if term.name == _MEMORY_CHECK:
        return _measured_memory(term, evidence)
    if needs_speed(term.name) or term.name == "batch-128-saturates":
        return Answer(term, CHECKS[term.name](evidence))
    return None


def _measured_memory(term: Check, evidence: Evidence) -> Answer | None:
    rows = evidence.results.rows("memory")
    residual, plain = block_maps(rows, "residual"), block_maps(rows, "plain")
    if not residual or not plain:
        return None
    # 5 % admits what an allocator rounds up, as in the check of the claims.
    holds = abs(max(residual) - 2) <= 0.1 and abs(max(plain) - 1) <= 0.05
    number, inference = (MET, REPRODUCED) if holds else (NOT_MET, CONTRADICTED)
    value = f"{max(residual):.2f}x vs {max(plain):.2f}x"
    return Answer(term, Finding(number, inference, value, evidence=("memory.csv",)))


def _origin(evidence: Evidence) -> RowOrigin:
    run = evidence.speeds
    if run is None:
        devices = sorted({row["device"] for row in evidence.results.rows("memory")})
        return RowOrigin(MEASURED_HERE, "this companion", "live feature maps", ", ".join(devices))
    differs = [f"batch {run.batch_size}"] if run.batch_size != 128 else []
    if run.precision != "fp32":
        differs.append(run.precision)
    setting = f"{run.precision}, {run.backend}, {run.memory_format}, batch {run.batch_size}"
    return RowOrigin(MEASURED_HERE, "this companion", setting, run.device, differs)
