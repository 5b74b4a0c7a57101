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
class Sources:
    """Everything that the ledger is made from, read and checked."""

    facts: Facts
    empty: Evidence
    devices: Results
    speeds: Sequence[SpeedTable]
    accuracies: Sequence[AccuracyList]
    published: Sequence[PublishedAccuracy]
    studies: Sequence[Study]


def read_sources(paper: Path, devices: Path, studies: Path) -> Sources:
    """Read and check all sources; raises CompanionError with file and line for a row that cannot be used."""
    facts = Facts(paper)
    require_claims(facts.table("claims"), str(paper / FILES["claims"]))
    published = read_accuracies(paper)
    nothing = Results(paper / "no-results")  # a folder that does not exist: everything is counted now
    check_device_folders(devices)
    return Sources(
        facts,
        Evidence(facts, nothing),
        Results(devices),
        speed_tables(facts, nothing, read_speeds(paper)),
        accuracy_lists(facts, nothing, published),
        published,
        [study for study in read_studies(studies, facts) if study.pairs],
    )
