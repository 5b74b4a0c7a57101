"""The typed writer refuses what the contract does not hold, and reads back what it wrote."""

import pytest

from repvgg_companion.contract import TABLES, read_rows, write_rows
from repvgg_companion.errors import CompanionError

ROW = {
    "experiment": "e", "dataset": None, "model": "RepVGG-B0_identity-only", "base_model": "RepVGG-B0",
    "variation": "identity-only", "width": 1.0, "num_classes": 1000, "run_id": "r", "form": "deploy", "params": 5,
    "flops": 7, "wino_muls": 3.5, "input_px": 224,
}  # fmt: skip


def test_round_trip_is_sorted_and_typed(tmp_path):
    path = tmp_path / "complexity.csv"
    write_rows(path, "complexity", [{**ROW, "form": "train", "params": 20}, {**ROW, "params": 9, "wino_muls": None}])
    text = path.read_bytes().decode()
    assert "\r" not in text and text.splitlines()[0] == ",".join(TABLES["complexity"].names)
    rows = read_rows(path, "complexity")
    assert [row["params"] for row in rows] == [9, 20]
    assert rows[0]["wino_muls"] is None and rows[0]["dataset"] is None and isinstance(rows[0]["width"], float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": None}, "column params is empty"),
        ({"params": 1.5}, "instead of a number"),
        ({"params": "12"}, "instead of a number"),
        ({"params": -1}, "outside"),
        ({"wino_muls": float("nan")}, "not a finite number"),
        ({"speed": 3}, r"columns \['speed'\]"),
        ({"model": "RepVGG/B0"}, "column model is 'RepVGG/B0'"),
        ({"form": "fused"}, "column form is 'fused'"),
    ],
)
def test_misfits_are_named_and_nothing_is_written(tmp_path, change, message):
    path = tmp_path / "complexity.csv"
    with pytest.raises(CompanionError, match=message):
        write_rows(path, "complexity", [{**ROW, **change}])
    assert not path.exists()


def test_a_changed_file_is_noticed_when_it_is_read(tmp_path):
    path = tmp_path / "complexity.csv"
    write_rows(path, "complexity", [ROW])
    path.write_text(path.read_text().replace(",5,7,", ",five,7,"))
    with pytest.raises(CompanionError, match="row 1, column params is 'five'"):
        read_rows(path, "complexity")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(CompanionError, match="columns are not those"):
        read_rows(path, "complexity")


def test_columns_of_an_interval_are_in_order_and_keys_are_unique(tmp_path):
    path = tmp_path / "history.csv"
    epoch = {"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0, "train_top1_pct": 1.0, "val_top1_pct": 1.0,
             "images_per_s": 5.0, "elapsed_s": 6.0}  # fmt: skip
    with pytest.raises(CompanionError, match="rows 1 and 3 are both for epoch 1"):
        write_rows(path, "history", [epoch, {**epoch, "epoch": 2}, epoch])
    write_rows(path, "history", [epoch])
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(CompanionError, match="rows 1 and 2 are both for epoch 1"):
        read_rows(path, "history")


@pytest.mark.parametrize("table", sorted(TABLES))
def test_the_rules_of_a_table_name_its_columns(table):
    named = {*TABLES[table].key, *(name for names in TABLES[table].ascending for name in names)}
    assert named <= set(TABLES[table].names)
