"""Which classes the images of a dataset must have, in label order: by a devkit, a labels file, or the images' own."""

from collections.abc import Collection
from dataclasses import dataclass

from repvgg_companion.data.index.devkit import Devkit
from repvgg_companion.data.index.labels_file import LabelsFile
from repvgg_companion.data.label_order import in_label_order
from repvgg_companion.errors import CompanionError


@dataclass(frozen=True)
class KnownClasses:
    """What is known about the classes before the images are read."""

    dataset: str
    devkit: Devkit | None = None
    labels: LabelsFile | None = None
    num_classes: int | None = None
    chosen: tuple[str, ...] = ()
    """The classes that are kept, by the names that the images have; all of them if empty."""

    def kept(self, names: Collection[str]) -> list[str]:
        """The names that are kept, sorted; raises CompanionError if a chosen one is not among them."""
        if missing := [name for name in self.chosen if name not in names]:
            raise CompanionError(
                f"dataset {self.dataset} has no class {missing[0]}, which --classes (data.classes) names; its "
                f"{len(names)} classes begin with {min(names, default='none')}"
            )
        return sorted(self.chosen or names)

    def ordered(self, train: Collection[str] | None, val: Collection[str], own: list[str] | None = None) -> list[str]:
        """The classes in label order, from the class names of the images in each split.

        `own` is the label order that the images come with, if any; a devkit or a labels file needs none.
        Raises CompanionError if splits, devkit, labels file and number of classes contradict each other.
        """
        if train is not None and (strangers := sorted(set(val) - set(train))):
            raise CompanionError(
                f"validation class {strangers[0]} is not a class of the training images; the two splits do not belong "
                "together"
            )
        names = self.kept(val if train is None else train)
        classes = in_label_order(names) if own is None else [name for name in own if name in names or not self.chosen]
        if self.labels is not None:
            for name in sorted(names):
                self.labels.class_named(name)
            classes = self.labels.classes
        elif self.devkit is not None:
            self._require_devkits(self.devkit, names, whole=train is not None and not self.chosen)
            classes = [wnid for wnid in self.devkit.wnids if wnid in names or not self.chosen]
        self.require_number(len(classes))
        return classes

    def _require_devkits(self, devkit: Devkit, names: Collection[str], *, whole: bool) -> None:
        wnids = set(devkit.wnids)
        if odd := sorted(set(names) ^ wnids if whole else set(names) - wnids):
            side = "the devkit but not in the images" if odd[0] in wnids else "the images only"
            raise CompanionError(
                f"the devkit {devkit.path} does not match the training images: {len(wnids)} classes against "
                f"{len(names)}, class {odd[0]} is in {side}; name the devkit of these images"
            )

    def require_number(self, number: int) -> None:
        """Raise CompanionError unless there are as many classes as the user said, if they said it."""
        if self.num_classes not in (None, number):
            raise CompanionError(
                f"dataset {self.dataset} has {number} classes instead of {self.num_classes}; "
                "correct --num-classes (data.num_classes) or name other images"
            )

    @property
    def label_order(self) -> str:
        """Where the labels come from, unless the class names alone decide (then empty)."""
        return "labels-file" if self.labels is not None else "devkit" if self.devkit is not None else ""
