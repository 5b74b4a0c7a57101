"""Everything that the ledger is made from, read and checked in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.evidence.device_folders import check_device_folders
from repvgg_companion.evidence.from_others import AccuracyList, SpeedTable, accuracy_lists, speed_tables
from repvgg_companion.evidence.from_studies import Study, read_studies
from repvgg_companion.evidence.groups import require_claims
from repvgg_companion.evidence.third_party import PublishedAccuracy, read_accuracies, read_speeds
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import FILES, Facts


@dataclass(frozen=True)
class LedgerRequest:
    """The folders that the verb reads and writes."""

    paper: Path
    devices: Path
    studies: Path
    output: Path
    figures: Path | None
    commit: str = ""
    """What the pictures name as their commit; empty for that of this checkout."""


@dataclass(frozen=True)
class Sources:
    """Everything that the ledger is made from, read and checked."""

    facts: Facts
    empty: Evidence
    devices: Results
    speeds: Sequence[SpeedTable]
    accuracies: Sequence[AccuracyList]
    published: Sequence[PublishedAccuracy]
    studies: Sequence[Study]


def read_sources(request: LedgerRequest) -> Sources:
    """Read and check all sources; raises CompanionError with file and line for a row that cannot be used."""
    facts = Facts(request.paper)
    require_claims(facts.table("claims"), str(request.paper / FILES["claims"]))
    published = read_accuracies(request.paper)
    nothing = Results(request.output / "no-results")  # a folder that does not exist: everything is counted now
    check_device_folders(request.devices)
    return Sources(
        facts,
        Evidence(facts, nothing),
        Results(request.devices),
        speed_tables(facts, nothing, read_speeds(request.paper)),
        accuracy_lists(facts, nothing, published),
        published,
        read_studies(request.studies, facts),
    )
