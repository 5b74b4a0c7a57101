"""A labels file: which class or label number a folder name means, where the sorted names shall not number the classes.

One class a line, in one of three forms; blank lines and lines that begin with `#` are skipped:

    NAME            the labels count the lines, from 0
    NAME LABEL      the folder NAME has this label number
    NAME WNID       the folder NAME holds the class WNID; the labels count the sorted WNIDs

The last word of a line is its LABEL or WNID; a tab, comma or blanks stand before it. A file may name more classes than
there are folders, such as all of ImageNet's for images of some of them.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.data.label_order import WNID
from repvgg_companion.errors import CompanionError

LAST_WORD = re.compile(r"(.*?)[\s,]+(\S+)")


@dataclass(frozen=True)
class LabelsFile:
    """`classes` in label order, and the class that each folder name means."""

    path: str
    classes: list[str]
    class_of: dict[str, str]

    def class_named(self, folder: str) -> str:
        """The class of a folder; raises CompanionError if the file does not name it."""
        try:
            return self.class_of[folder]
        except KeyError:
            raise CompanionError(
                f"{self.path} does not name {folder!r}, which is a class of the images; add a line for it"
            ) from None


def read_labels(path: str) -> LabelsFile:
    """Read a labels file; raises CompanionError naming the line that is wrong."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except FileNotFoundError:
        raise CompanionError(f"the labels file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise CompanionError(f"the labels file {path} is not UTF-8 text (byte {error.start})") from None
    lines = {
        number: line.strip()
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    }
    if not lines:
        raise CompanionError(f"the labels file {path} names no class")
    pairs = {number: _pair(line) for number, line in lines.items()}
    for form in (_is_number, _is_wnid):
        fits = {number: form(value) for number, (_, value) in pairs.items()}
        if any(fits.values()):
            if odd := [number for number, right in fits.items() if not right]:
                other = next(number for number, right in fits.items() if right)
                raise CompanionError(f"the labels file {path} has another form in line {odd[0]} than in line {other}")
            return _mapped(path, pairs)
    _require_unique(path, lines)
    return LabelsFile(path, list(lines.values()), {name: name for name in lines.values()})


def _mapped(path: str, pairs: dict[int, tuple[str, str]]) -> LabelsFile:
    """Lines of NAME LABEL or NAME WNID."""
    for part in (0, 1):
        _require_unique(path, {number: pair[part] for number, pair in pairs.items()})
    values = dict(pairs.values())
    if not all(map(_is_number, values.values())):
        return LabelsFile(path, sorted(values.values()), values)
    by_label = {int(label): name for name, label in values.items()}
    if missing := sorted(set(range(len(pairs))) - set(by_label)):
        raise CompanionError(
            f"the labels file {path} gives label {missing[0]} to no class; labels go from 0 to {len(pairs) - 1}"
        )
    classes = [by_label[label] for label in range(len(pairs))]
    return LabelsFile(path, classes, {name: name for name in classes})


def _pair(line: str) -> tuple[str, str]:
    """The name in a line, and its last word; empty where the line is one word."""
    match = LAST_WORD.fullmatch(line)
    return (match[1], match[2]) if match else (line, "")


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit()


def _is_wnid(value: str) -> bool:
    return WNID.fullmatch(value) is not None


def _require_unique(path: str, named: dict[int, str]) -> None:
    first: dict[str, int] = {}
    for number, name in named.items():
        if first.setdefault(name, number) != number:
            raise CompanionError(f"the labels file {path} names {name!r} in line {first[name]} and in line {number}")
