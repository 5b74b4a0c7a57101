"""What a verdict on a claim rests on: for each term of its condition the measured rows, or why there are none."""

from collections.abc import Callable
from typing import Any

from repvgg_companion.evidence.raw_row import Basis, rows_basis
from repvgg_companion.evidence.table_sources import NOW, count_basis
from repvgg_companion.paper.claim_evidence import Evidence, evidence_for
from repvgg_companion.paper.grammar import EXACT, Check, NotAvailable, Quantity, Term, parse
from repvgg_companion.paper.named_checks import block_rows, pairs_of_batches, proxies
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import Facts

_SETTING = ("device", "precision", "backend")
_TABLES = {"top1": "accuracy", "miou": "segmentation", "speed": "speed", "density": "kernel_size"}


def evidence_of(claim: dict[str, Any], facts: Facts, results: Results, setting: dict[str, str]) -> Evidence:
    """The evidence of one row of a claim; `setting` holds its device, precision and backend as text."""
    every = evidence_for(facts, results, parse(claim["condition"]))
    for evidence in every:
        run = evidence.speeds
        if run is not None and all(setting.get(name) == getattr(run, name) for name in _SETTING):
            return evidence
    return every[0] if every[0].speeds is None else Evidence(facts, results, None, "its speeds no longer exist")


def claim_basis(claim: dict[str, Any], evidence: Evidence) -> list[tuple[Term, list[Basis]]]:
    """Each term of the claim with what decides it."""
    return [(term, term_basis(term, evidence)) for term in parse(claim["condition"])]


def term_basis(term: Term, evidence: Evidence) -> list[Basis]:
    """What one term rests on; where a value is missing, the reason in words."""
    try:
        if isinstance(term, Check):
            return _CHECKS[term.name](evidence) if term.name in _CHECKS else [Basis(NOW)]
        return quantities_basis(list(term.quantities), evidence)
    except NotAvailable as reason:
        return [Basis(f"nothing: {reason}")]


def quantities_basis(quantities: list[Quantity], evidence: Evidence) -> list[Basis]:
    """The rows of quantities that are compared; raises NotAvailable if one has none."""
    readings = evidence.read_together([quantity for quantity in quantities if quantity.name not in EXACT])
    found: list[Basis] = []
    for quantity in quantities:
        if quantity.name in EXACT:
            found += count_basis(evidence, quantity)
        else:
            found += rows_basis(_TABLES[quantity.name], readings[quantity].rows)
    return found


def _certificates(evidence: Evidence) -> list[Basis]:
    rows = evidence.results.rows("reparameterization")
    return [Basis(f"{NOW}: RepVGG-A0 with random weights"), *rows_basis("reparameterization", rows)]


def _feature_maps(evidence: Evidence) -> list[Basis]:
    rows = [block_rows(evidence.results.rows("memory"), kind) for kind in ("residual", "plain")]
    return [Basis(NOW), *(rows_basis("memory", [*rows[0], *rows[1]]) if all(rows) else [])]


def _all_networks(evidence: Evidence) -> list[Basis]:
    found: list[Basis] = []
    for table, recipe in (("table4", "120-epochs"), ("table5", "200-epochs")):
        names = [row["model"] for row in evidence.facts.table(table)]
        quantities = [Quantity("speed", name) for name in names] + [Quantity("top1", name, (recipe,)) for name in names]
        found += quantities_basis(quantities, evidence)
    return found


def _ranked(evidence: Evidence) -> list[Basis]:
    found: list[Basis] = []
    for point in proxies(evidence):
        quantities = [Quantity(name, point["model"]) for name in ("speed", "flops", "wino")]
        found += quantities_basis(quantities, evidence)
    return found or [Basis(f"nothing: {evidence.why_no_speeds or 'no network of Table 4 was measured'}")]


def _batches(evidence: Evidence) -> list[Basis]:
    rows = [row for pair in pairs_of_batches(evidence.results.rows("speed")) for row in pair]
    return rows_basis("speed", rows) or [Basis("nothing: no network was measured with batch 128 and 256 in one run")]


_CHECKS: dict[str, Callable[[Evidence], list[Basis]]] = {
    "conversion-keeps-function": _certificates,
    "residual-block-doubles-memory": _feature_maps,
    "every-baseline-matched": _all_networks,
    "wino-ranks-speed": _ranked,
    "batch-128-saturates": _batches,
    "no-measurement-in-paper": lambda _: [Basis("nothing: there is no measurement to compare with")],
}
"""The checks that rest on measurements; the others are decided on the built networks."""
