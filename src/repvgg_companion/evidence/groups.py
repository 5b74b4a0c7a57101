"""The claims in the order of the paper: abstract, design, Tables 1 to 8, and the official README."""

import re
from collections.abc import Sequence

from repvgg_companion.errors import CompanionError, located
from repvgg_companion.evidence.deciding import Claim
from repvgg_companion.models.names import require_model
from repvgg_companion.paper.claims import KINDS
from repvgg_companion.paper.grammar import Check, parse
from repvgg_companion.paper.named_checks import CHECKS

ABSTRACT, DESIGN, README = "Abstract", "Design (sections 1 to 3, and discussion)", "Official README (not in the paper)"
TABLES = {
    1: "Table 1: kernel sizes",
    2: "Table 2: architecture",
    3: "Table 3: variants",
    4: "Table 4: networks trained for 120 epochs",
    5: "Table 5: networks trained for 200 epochs",
    6: "Table 6: branches",
    7: "Table 7: variants of the block",
    8: "Table 8: semantic segmentation",
}
NOT_BUILT = "RepVGGplus-L2pse"
"""A later network of the official README (P02), which this companion does not build."""
GROUPS = (ABSTRACT, DESIGN, *TABLES.values(), README)


def group_of(claim: Claim) -> str:
    """The heading that a claim belongs under."""
    where, tables = claim["where_in_paper"], claim["tables"]
    if where.startswith("README"):
        return README
    if where.startswith("abstract"):
        return ABSTRACT
    return TABLES[int(tables[0])] if tables[0].isdigit() else DESIGN


def by_heading(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """The claims by group, in the order of the page; groups without a claim are left out."""
    found = {name: [claim for claim in claims if group_of(claim) == name] for name in GROUPS}
    return {name: members for name, members in found.items() if members}


def require_claims(claims: Sequence[Claim], path: str) -> None:
    """Raise CompanionError with file and line for a claim that is there twice, or whose cells cannot be used."""
    seen: dict[str, int] = {}
    for line, claim in enumerate(claims, start=2):
        if claim["kind"] not in KINDS:
            which = f"the unknown kind {claim['kind']!r}" if claim["kind"] else "no kind"
            raise CompanionError(f"{path} line {line}: claim {claim['id']} has {which}; use one of {', '.join(KINDS)}")
        if claim["id"] in seen:
            raise CompanionError(f"{path} line {line}: claim {claim['id']} is already on line {seen[claim['id']]}")
        seen[claim["id"]] = line
        with located(f"{path} line {line}: claim {claim['id']}"):
            _require_usable(claim)


def _require_usable(claim: Claim) -> None:
    """Raise CompanionError for a condition, a network, a check or a tolerance that is not known."""
    for name in ("tolerance_released", "tolerance_retrained"):
        if claim[name] and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", claim[name]):
            raise CompanionError(f"{name} {claim[name]!r} is not a number of points")
    for name in ("id", "claim", "where_in_paper", "condition", "tables"):
        if not claim[name]:
            raise CompanionError(f"{name} is empty")
    for condition in filter(None, (claim["condition"], claim["condition_on_printed_numbers"])):
        for term in parse(condition):
            if isinstance(term, Check) and term.name not in CHECKS:
                raise CompanionError(f"the check {term.name!r} does not exist; use one of {', '.join(CHECKS)}")
            for quantity in term.quantities:
                if quantity.name != "density" and quantity.subject != NOT_BUILT:
                    require_model(quantity.subject)
