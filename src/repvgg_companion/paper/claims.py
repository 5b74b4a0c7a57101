"""The `claims` verb: judge each of the paper's claims by our results, as `claims.csv` and a readable `claims.md`.

A claim about speed gets one row for each device, precision and backend on which all its networks were measured.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from repvgg_companion.contract import NUMBER_VERDICTS, with_interval, write_rows
from repvgg_companion.errors import CompanionError, counted
from repvgg_companion.files import write_text
from repvgg_companion.paper.claim_evidence import Evidence, evidence_for
from repvgg_companion.paper.grammar import Check, Term, parse
from repvgg_companion.paper.named_checks import CHECKS
from repvgg_companion.paper.ours import PAPER_DATASET, PAPER_SEGMENTATION, Results
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import NOT_TESTED, OPEN, Finding, joined, judge, our_values

KINDS = ("arithmetic", "structural", "value", "difference", "order", "ratio")
LEDGER = "../reference/ledger.md"
"""From the folder of an experiment's claims to the ledger of all evidence."""
DECIDED_WITHOUT_TRAINING = ("arithmetic", "structural")
_MOST_SOURCES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `claims` verb."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--results", required=True, help="folder results/EXPERIMENT")
    parser.add_argument("--paper", default="paper", help="folder of the paper's facts")
    parser.add_argument("--output", required=True, help="claims.csv")
    parser.add_argument("--markdown", required=True, help="claims.md")


def run(arguments: argparse.Namespace) -> None:
    """Judge every claim, write both files, print how many of each kind got which verdict."""
    facts, results = Facts(Path(arguments.paper)), Results(Path(arguments.results))
    rows = claim_rows(facts, results)
    write_rows(arguments.output, "claims", rows, keep_order=True)
    write_text(arguments.markdown, markdown(rows, arguments.experiment, facts, results.other_datasets))
    print(summary(rows))
    if results.other_datasets:
        print(f"Accuracies on {', '.join(results.other_datasets)} decide no claim about ImageNet.")


def claim_rows(facts: Facts, results: Results) -> list[dict[str, Any]]:
    """The rows of claims.csv, in the order of the paper's claims."""
    return [row for claim in facts.table("claims") for row in rows_of_claim(claim, facts, results)]


def rows_of_claim(claim: dict[str, Any], facts: Facts, results: Results) -> list[dict[str, Any]]:
    """The rows of one claim, one for each setting of speeds; raises CompanionError for an unknown check or kind."""
    terms = parse(claim["condition"])
    if claim["kind"] not in KINDS:
        which = f"the unknown kind {claim['kind']!r}" if claim["kind"] else "no kind"
        raise CompanionError(f"claim {claim['id']} has {which}; use one of {', '.join(KINDS)}")
    if unknown := [term.name for term in terms if isinstance(term, Check) and term.name not in CHECKS]:
        raise CompanionError(f"claim {claim['id']} names the check {unknown[0]!r}, which does not exist")
    released, retrained = claim["tolerance_released"], claim["tolerance_retrained"]
    tolerances = (released and float(released), retrained and float(retrained))
    rows = []
    for evidence in evidence_for(facts, results, terms):
        findings = [
            CHECKS[term.name](evidence) if isinstance(term, Check) else judge(term, evidence, tolerances)
            for term in terms
        ]
        rows.append(_row(claim, terms, findings, evidence))
    return rows


def _row(claim: dict[str, Any], terms: tuple[Term, ...], findings: list[Finding], evidence: Evidence) -> dict[str, Any]:
    number = joined([finding.number for finding in findings])
    interval = next((finding for finding in findings if finding.low is not None), None)
    speeds = evidence.speeds
    reasons = [
        f"{f'{term}: ' if len(terms) > 1 else ''}{finding.number}{f' ({finding.reason})' if finding.reason else ''}"
        for term, finding in zip(terms, findings, strict=True)
    ]
    if speeds is not None:
        reasons.append(f"speeds: {speeds.label}, {speeds.memory_format}, protocol {speeds.protocol}")
    sources = list(dict.fromkeys(line for finding in findings for line in finding.evidence))
    if len(sources) > _MOST_SOURCES:
        sources = [*sources[:_MOST_SOURCES], f"and {len(sources) - _MOST_SOURCES} more rows"]
    names = {quantity.name for term in terms for quantity in term.quantities}
    images = PAPER_DATASET if "top1" in names else PAPER_SEGMENTATION if "miou" in names else None
    return {
        "id": claim["id"],
        "claim": claim["claim"],
        "kind": claim["kind"],
        "condition": claim["condition"],
        "paper_value": claim["printed_value"],
        "our_value": our_values(findings),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "tolerance": next((finding.tolerance for finding in findings if finding.tolerance is not None), None),
        "verdict_number": number,
        "verdict_inference": joined([finding.inference for finding in findings]),
        "dataset": images if number != NOT_TESTED else None,
        "device": speeds.device if speeds else None,
        "precision": speeds.precision if speeds else None,
        "backend": speeds.backend if speeds else None,
        "batch_size": speeds.batch_size if speeds else None,
        "reason": "; ".join(reasons),
        "flags": "; ".join(dict.fromkeys(flag for finding in findings for flag in finding.flags)),
        "evidence": "; ".join(sources),
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """How many claims of each kind have which verdict on the printed number, as aligned lines."""
    lines = [f"{'kind':<12}" + "".join(f"{verdict:>14}" for verdict in NUMBER_VERDICTS)]
    for kind in (*KINDS, "all rows"):
        counts = Counter(row["verdict_number"] for row in rows if kind in (row["kind"], "all rows"))
        lines.append(f"{kind:<12}" + "".join(f"{counts[verdict]:>14}" for verdict in NUMBER_VERDICTS))
    fixed = [row for row in rows if row["kind"] in DECIDED_WITHOUT_TRAINING]
    decided = sum(row["verdict_number"] not in (NOT_TESTED, OPEN) for row in fixed)
    lines.append(
        f"{len({row['id'] for row in rows})} claims in {len(rows)} rows; {decided} of {len(fixed)} arithmetic and "
        "structural ones decided."
    )
    if disturbed := [row for row in rows if row["flags"]]:
        lines.append(
            f"{counted(len(disturbed), 'row')} ({counted(len({row['id'] for row in disturbed}), 'claim')}) judged on "
            "disturbed speeds (busy, throttled, drifting or spread), which decide nothing: measure again on a quiet "
            "machine."
        )
    return "\n".join(lines)


def setting_of(row: dict[str, Any]) -> str:
    """` on DEVICE (fp32, eager, batch 1)` for a verdict that rests on speeds, else nothing."""
    if not row["device"]:
        return ""
    return f" on {row['device']} ({row['precision']}, {row['backend']}, batch {row['batch_size']})"


def markdown(rows: list[dict[str, Any]], experiment: str, facts: Facts, other_datasets: list[str]) -> str:
    """claims.md: what the verdicts mean, the counts, and every claim with its reason."""
    where = {claim["id"]: claim["where_in_paper"] for claim in facts.table("claims")}
    parts = [f"# The paper's claims, experiment {experiment}", ""]
    if other_datasets:
        parts += [
            f"**Accuracies of this experiment were measured on {', '.join(other_datasets)}. They decide no claim about "
            "ImageNet.** Counts, and speeds of full-width networks, do not depend on the images.",
            "",
        ]
    parts += [
        "*Number*: does the 95 % interval of our value meet the printed value or order (met), miss it (not met), or "
        "neither (open)? *Inference*: would the claim hold for new images, new training seeds, beyond the noise of "
        "this device? A claim has the worst verdict of its terms. "
        "A failure on another device or batch than the paper's is *not met*, not *contradicted*.",
        "",
        "```text",
        summary(rows),
        "```",
        "",
    ]
    parts += [f"All other evidence on these claims, from all sources: [the ledger]({LEDGER}).", ""]
    for row in rows:
        parts += _claim_lines(row, where[row["id"]])
    return "\n".join(parts)


def _claim_lines(row: dict[str, Any], where: str) -> list[str]:
    ours = with_interval(row["our_value"] or "none", row["low"], row["high"])
    tolerance = "" if row["tolerance"] is None else f", tolerance {row['tolerance']} points"
    return [
        f"## {row['id']} {row['claim']}",
        "",
        f"- number: **{row['verdict_number']}**{setting_of(row)}; inference: **{row['verdict_inference']}**",
        *([f"- disturbed: {row['flags']}"] if row["flags"] else []),
        f"- paper: {row['paper_value'] or 'no number'} ({where}); ours: {ours}",
        f"- condition ({row['kind']}): `{row['condition']}`{tolerance}",
        f"- reason: {row['reason']}",
        *([f"- rests on: {row['evidence']}"] if row["evidence"] else []),
        "",
    ]
