"""One split that is being indexed, and what the readers of all forms share."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from repvgg_companion.data.index.archive_opener import ArchiveOpener
from repvgg_companion.data.index.classes import Classes, no_image_of
from repvgg_companion.data.index.devkit import Devkit
from repvgg_companion.data.index.findings import Findings
from repvgg_companion.data.index.known_classes import KnownClasses
from repvgg_companion.data.index.source import PARQUET, option_for
from repvgg_companion.data.manifest import ManifestBuilder
from repvgg_companion.errors import CompanionError


@dataclass(frozen=True)
class IndexJob:
    """What every reader needs to know.

    Images without byte ranges are copied into tars in `output`, which take their names when `naming` is left. A reader
    that copies first asks `known` about the classes. Readers add to `notes` what does not belong to a single split.
    """

    output: Path
    naming: ExitStack
    opener: ArchiveOpener
    known: KnownClasses
    notes: list[str] = field(default_factory=list)

    @property
    def devkit(self) -> Devkit | None:
        """The devkit, if the user named one."""
        return self.known.devkit


@dataclass
class Split:
    """The images of one split and where they lie.

    `words` are class names by WNID, `class_order` the classes in label order, both if the source has them.
    """

    builder: ManifestBuilder = field(default_factory=ManifestBuilder)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    words: dict[str, str] = field(default_factory=dict)
    class_order: list[str] | None = None

    def add(self, classes: Classes, where: str) -> None:
        """Add whole classes; raises CompanionError if one has no image or a name that is not UTF-8."""
        for wnid, images in classes:
            if not images:
                raise CompanionError(no_image_of(wnid, where))
            try:
                wnid.encode()
                self.builder.add_class(wnid, images)
            except UnicodeEncodeError:
                raise CompanionError(f"{where} has a name in class {wnid!r} that is not UTF-8; rename it") from None

    def require_images(self, where: str) -> "Split":
        """Return the split; raises CompanionError if it is empty."""
        if not len(self.builder):
            other = self.findings.others.first
            beside = f" (but {self.findings.others.count} other files, such as {other!r})" if other else ""
            way = option_for(PARQUET) if other.endswith(".parquet") else "check that it is the right archive or folder"
            raise CompanionError(f"{where} holds no image{beside}; {way}")
        return self

    def notes(self) -> list[str]:
        """What was left out or decided, also when classes were put together."""
        found = self.findings
        return replace(found, duplicates=found.duplicates + self.builder.duplicates).notes()
