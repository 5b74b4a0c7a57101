"""Every column of the contract has a unit and a meaning, and the committed dictionary is up to date."""

import csv

from repvgg_companion.__main__ import main
from repvgg_companion.contract import TABLES
from repvgg_companion.evidence.dictionary import MEANINGS, as_csv, entries


def test_every_column_is_explained_and_nothing_else():
    explained = {(entry[0], entry[1]) for entry in entries()}
    assert explained == {(table, name) for table, contract in TABLES.items() for name in contract.names}
    assert set(MEANINGS) == {name for contract in TABLES.values() for name in contract.names}
    assert all(len(text) > 8 for text in MEANINGS.values())


def test_a_column_that_carries_its_unit_shows_it():
    units = {entry[1]: entry[3] for entry in entries()}
    assert units["top1_pct"] == "percent, 0 to 100"
    assert units["time_ms"] == "milliseconds"
    assert units["images_per_s"] == "images/s"
    assert units["low_examples_per_s"] == "examples/s"
    assert units["elapsed_s"] == "seconds"
    assert units["peak_mib"] == "MiB"
    assert units["model"] == ""


def test_the_committed_dictionary_is_up_to_date(root, tmp_path):
    assert main(["dictionary", "--output", str(tmp_path / "dictionary.csv")]) == 0
    written = (tmp_path / "dictionary.csv").read_text(encoding="utf-8")
    committed = root / "results" / "reference" / "dictionary.csv"
    assert written == as_csv() == committed.read_text(encoding="utf-8"), "run the verb 'dictionary'"
    with committed.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    speed = next(row for row in rows if (row["table"], row["column"]) == ("speed", "examples_per_s"))
    assert (speed["type"], speed["range"], speed["may_be_empty"]) == ("number", "at least 0", "yes")
