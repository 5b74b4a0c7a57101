"""How the classes of a dataset got their label numbers. Evaluation needs this: released weights know one order only."""

import hashlib
import re
from collections.abc import Iterable, Sequence

WNID = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000
ILSVRC2012_WNIDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""Digest of ILSVRC2012's 1000 WNIDs, sorted, one a line without a last line feed."""

LABEL_ORDERS: dict[str, str] = {
    "wnid": "the class names are WNIDs, numbered in sorted order, as ImageNet's are",
    "devkit": "the dataset's own table numbers the classes: ILSVRC2012's devkit, or Cityscapes' label ids",
    "labels-file": "the user's labels file numbers the classes",
    "numbers": "the class names are whole numbers, sorted as numbers",
    "names": "the class names are other words, sorted as text",
    "shards": "the Parquet shards number the classes, in an order that is not that of their names",
}
"""The values of `Manifest.label_order`. Only the first three say which class of other weights a label means."""


def class_list_digest(classes: Sequence[str]) -> str:
    """SHA-256 of class names in label order, one a line."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()


def in_label_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: sorted as numbers if all of them are digits, else as text."""
    names = sorted(names)
    return sorted(names, key=int) if _all_numbers(names) else names


def order_of(classes: Sequence[str]) -> str:
    """The label order that a list of class names itself shows: `wnid`, `numbers`, `names` or `shards`."""
    if list(classes) == sorted(classes) and all(map(WNID.fullmatch, classes)):
        return "wnid"
    if _all_numbers(classes) and list(classes) == in_label_order(classes):
        return "numbers"
    return "names" if list(classes) == sorted(classes) else "shards"


def _all_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)
