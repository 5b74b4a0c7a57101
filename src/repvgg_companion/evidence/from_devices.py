"""Rows of the class *measured here*: each device, precision and backend under `results/devices/`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from repvgg_companion.evidence.deciding import Answer, Claim, RowOrigin, is_exact, ledger_row
from repvgg_companion.evidence.evidence_classes import MEASURED_HERE
from repvgg_companion.paper.claim_evidence import Evidence, evidence_for
from repvgg_companion.paper.comparable_runs import BEST, PAPER_SHAPE, ComparableRun, has_paper_shape
from repvgg_companion.paper.grammar import Check, Comparison, Term, parse
from repvgg_companion.paper.named_checks import CHECKS, block_rows, decided, measured_doubling, pairs_of_batches
from repvgg_companion.paper.ours import Results, Row
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import (
    NOT_TESTED,
    Finding,
    judge,
    value_text,
)
from repvgg_companion.speed.speed_settings import PAPER_BATCH_SIZE

_SATURATION_CHECK = "batch-128-saturates"


def device_rows(claim: Claim, facts: Facts, results: Results) -> Iterator[dict[str, Any]]:
    """The rows of one claim, one for each device, precision and backend in which its networks were measured."""
    terms = parse(claim["condition"])
    for evidence in evidence_for(facts, results, terms):
        if evidence.speeds is None or evidence.speeds.backend == BEST:
            continue  # the best of each repeats rows of the single backends
        answers = [answer for term in terms if (answer := _answer(term, evidence)) is not None]
        yield from ledger_row(claim, _origin(evidence.speeds), answers, len(terms))
    if any(part.name == "density" for term in terms for part in term.quantities):
        yield from _other_shapes(claim, results)
    yield from _check_rows(claim, facts, results)


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
        yield from ledger_row(claim, origin, answers, len(terms))


def _shape(row: Row) -> str:
    return f"batch {row['batch_size']}, {row['channels']} channels, {row['resolution_px']} px"


def _answer(term: Term, evidence: Evidence) -> Answer | None:
    if is_exact(term):
        return None
    if not isinstance(term, Check):
        return Answer(term, judge(term, evidence))
    return Answer(term, CHECKS[term.name](evidence)) if term.of_speeds else None


def _check_rows(claim: Claim, facts: Facts, results: Results) -> Iterator[dict[str, Any]]:
    """The checks on memory and on the batch size: one row for each device."""
    terms = parse(claim["condition"])
    checks = [(term, _CHECKS_OF_A_DEVICE[term.name]) for term in terms
              if isinstance(term, Check) and term.name in _CHECKS_OF_A_DEVICE]  # fmt: skip
    folders = {row["_folder"]: row["device"] for table in ("memory", "speed") for row in results.rows(table)}
    for folder, device in folders.items() if checks else ():
        evidence = Evidence(facts, Results(folder))
        for term, (setting, decide) in checks:
            finding = decide(evidence)
            origin = RowOrigin(MEASURED_HERE, "this companion", setting, device)
            yield from ledger_row(claim, origin, [Answer(term, finding)] if finding else [], len(terms))


def _memory_finding(evidence: Evidence) -> Finding | None:
    rows = evidence.results.rows("memory")
    measured = measured_doubling(rows)
    if measured is None:
        return None
    first = [block_rows(rows, kind)[0] for kind in ("residual", "plain")]
    return decided(*measured, *(f"memory.csv {row['run_id']} {row['model']} {row['form']}" for row in first))


def _saturation_finding(evidence: Evidence) -> Finding:
    names = tuple(
        f"speed.csv {row['run_id']} {row['model']} {row['form']} {row['precision']} {row['backend']} batch "
        f"{row['batch_size']}"
        for pair in pairs_of_batches(evidence.results.rows("speed"))
        for row in pair
    )
    return replace(CHECKS[_SATURATION_CHECK](evidence), evidence=names)


_CHECKS_OF_A_DEVICE: dict[str, tuple[str, Callable[[Evidence], Finding | None]]] = {
    "residual-block-doubles-memory": ("live feature maps", _memory_finding),
    _SATURATION_CHECK: ("fp32, batch 128 and 256", _saturation_finding),
}
"""The setting of each check, and what decides it."""


def _origin(run: ComparableRun) -> RowOrigin:
    kernels = any(form == "density" for _, form in run.rows)
    papers = PAPER_SHAPE["batch_size"] if kernels else PAPER_BATCH_SIZE
    differs = [f"batch {run.batch_size}"] if run.batch_size != papers else []
    if run.precision != "fp32":
        differs.append(run.precision)
    setting = f"{run.precision}, {run.backend}, {run.memory_format}, batch {run.batch_size}"
    return RowOrigin(MEASURED_HERE, "this companion", setting, run.device, differs)
