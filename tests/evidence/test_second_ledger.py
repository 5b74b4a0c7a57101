"""Every row of the ledger, in all its columns, against a second evaluation that shares no code with it.

`second_reading`, `second_published`, `second_structure`, `second_devices` and `second_studies` derive the rows from the
files that the ledger names: once for the committed ledger, and once for a copy with planted rows of every class.
"""

import re
from collections import Counter
from pathlib import Path

import pytest
from evidence_rows import ROOT
from second_devices import Device, device_rows
from second_published import DEVICE_NAMES, Paper, accuracy_rows, printed_rows, speed_rows, speed_tables
from second_reading import COLUMNS, Quantity, Row, read
from second_structure import counted_rows
from second_studies import study_rows

from repvgg_companion.evidence.ledger_columns import write_ledger

CLASSES = ("printed", "counted", "measured here", "re-evaluated by others", "retrained by others",
           "measured by others", "small study")  # fmt: skip
KEY = ("id", "evidence_class", "source", "device", "setting")
NUMBER = re.compile(r"(?<![\w.-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w-])")


def second_ledger(root: Path) -> list[Row]:
    """All rows that the files below `root` give."""
    paper = Paper(root / "paper")
    return [*printed_rows(paper), *counted_rows(paper), *device_rows(paper, root / "results" / "devices"),
            *accuracy_rows(paper), *speed_rows(paper), *study_rows(paper, root / "results" / "studies")]  # fmt: skip


def by_key(rows: list[Row]) -> dict[tuple, Row]:
    keys = [tuple(row[name] for name in KEY) for row in rows]
    assert not [key for key, number in Counter(keys).items() if number > 1]
    return dict(zip(keys, rows, strict=True))


def is_same(found: str, expected: str) -> bool:
    """The same words, and the same numbers up to one unit of the last digit that is shown."""
    if found == expected:
        return True
    if NUMBER.sub("#", found) != NUMBER.sub("#", expected):
        return False
    pairs = zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True)
    return all(abs(float(one.replace(",", "")) - float(other.replace(",", ""))) <= unit(one, other)
               for one, other in pairs)  # fmt: skip


def unit(one: str, other: str) -> float:
    """One unit of the last digit that both show; 0 for whole numbers."""
    digits = max(len(text.partition("e")[0].partition(".")[2]) for text in (one, other))
    exponent = int(one.partition("e")[2] or 0)
    return 1.01 * 10.0 ** (exponent - digits) if digits else 0.0


def disagreements(ledger: list[Row], root: Path) -> list[str]:
    found, expected = by_key(ledger), by_key(second_ledger(root))
    told = [f"only in the ledger: {key}" for key in found if key not in expected]
    told += [f"not in the ledger: {key}" for key in expected if key not in found]
    told += [
        f"{key}: {name} is {found[key][name]!r}, second evaluation {row[name]!r}"
        for key, row in expected.items() if key in found
        for name in COLUMNS if not is_same(found[key][name], row[name])
    ]  # fmt: skip
    return told


def test_every_row_of_the_committed_ledger_follows_from_its_files():
    ledger = read(ROOT / "results" / "reference" / "ledger.csv")
    assert disagreements(ledger, ROOT) == []
    assert {row["evidence_class"] for row in ledger} == set(CLASSES)


def test_every_row_of_a_ledger_with_planted_evidence_follows_from_its_files(planted, tmp_path):
    sources, rows = planted
    write_ledger(tmp_path / "ledger.csv", rows)
    assert disagreements(read(tmp_path / "ledger.csv"), Path(sources.facts.folder).parent) == []


@pytest.mark.parametrize("column", COLUMNS)
def test_the_second_evaluation_notices_a_change_of_any_column(column):
    """So a wrong cell cannot pass: one changed word or digit is found."""
    rows = [row for row in read(ROOT / "results" / "reference" / "ledger.csv") if row["evidence_class"] == "printed"]
    row = next(row for row in rows if row["id"] == "C20")
    changed = row | {column: "1.5" if column in ("low", "high") else f"{row[column]} or so"}
    assert not is_same(changed[column], row[column])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1.2345 vs 2", "1.2346 vs 2", True), ("1.2345", "1.2347", False), ("met", "not met", False),
     ("[0.98, 1]", "[0.98, 3]", False), ("28,697,814; 256", "28,697,814; 257", False), ("line 12", "line 14", False)],
)  # fmt: skip
def test_texts_are_compared_by_words_and_last_digits(one, other, same):
    assert is_same(one, other) is same


def test_every_point_of_the_speed_ups_follows_from_its_rows():
    paper, points = Paper(ROOT / "paper"), read(ROOT / "paper_figures" / "reference" / "speedups.csv")
    devices = [Device(path) for path in sorted((ROOT / "results" / "devices").iterdir()) if path.is_dir()]
    expected = set()
    for panel in dict.fromkeys(row["panel"] for row in points):
        top, bottom = panel.split(" / ")
        speeds = [paper.printed(Quantity("speed", model)) for model in (top, bottom)]
        expected.add((panel, "printed", "GTX 1080 Ti", speeds[0] / speeds[1]))
        for _, table in speed_tables(paper):
            if top in table and bottom in table:
                (_, first), (_, second) = table[top], table[bottom]
                ratio = float(first["images_per_s"]) / float(second["images_per_s"])
                expected.add((panel, *place_of_published(first), ratio))
        for device in devices:
            for setting in device.chosen({(top, "deploy"), (bottom, "deploy")}):
                ratio = device.ratio(setting.rows[top, "deploy"], setting.rows[bottom, "deploy"])
                where = (panel, "measured here", f"{device.name}, {setting.precision}, {setting.backend}")
                expected.add((*where, *ratio))
    found = [
        (
            row["panel"],
            row["series"],
            row["name"],
            *(float(row[name]) for name in ("x", "x_low", "x_high") if row[name]),
        )
        for row in points
    ]
    assert len(found) == len(expected)
    for one, other in zip(sorted(found), sorted(expected), strict=True):
        assert one[:3] == other[:3] and one[3:] == pytest.approx(other[3:], rel=1e-6)


def place_of_published(row: Row) -> tuple[str, str]:
    """Series and name of a published ratio."""
    engine = "compiled" if row["backend"] == "compile" else "eager"
    kind = "train form" if row["form"] == "train" else engine
    setting = "{precision}, {backend}, {memory_format}, torch {torch}".format(**row)
    return f"others, {kind}", f"{DEVICE_NAMES[row['device']]}, {setting}"
