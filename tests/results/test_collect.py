"""Joining parts: what does not fit the contract stops the collection, across columns and rows too."""

from pathlib import Path

import pytest

from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.results.collect import collect

ROW = {
    "experiment": "e", "dataset": "d", "model": "RepVGG-A0", "base_model": "RepVGG-A0", "variation": None,
    "width": 0.25, "num_classes": 10, "recipe": "r", "training_digest": "01234567", "seed": "0",
    "weights_sha256": "a" * 64, "run_id": "x", "form": "train", "protocol": "p", "input_px": 32, "n_images": 100,
    "top1_pct": 50.0, "top1_low_pct": 40.0, "top1_high_pct": 60.0, "top5_pct": 90.0,
}  # fmt: skip


def part(folder, name, *rows):
    write_rows(folder / name, "accuracy", rows)
    return str(folder / name)


def test_parts_are_joined_sorted_and_typed(tmp_path):
    first = part(tmp_path, "1.csv", {**ROW, "model": "RepVGG-B0", "base_model": "RepVGG-B0"})
    second = part(tmp_path, "2.csv", ROW, {**ROW, "form": "deploy"})
    assert collect("accuracy", str(tmp_path / "accuracy.csv"), [first, second]) == 3
    rows = read_rows(tmp_path / "accuracy.csv", "accuracy")
    assert [(row["model"], row["form"]) for row in rows] == [
        ("RepVGG-A0", "deploy"), ("RepVGG-A0", "train"), ("RepVGG-B0", "train"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("top1_low_pct", "55.0", "row 1: top1_low_pct <= top1_pct"),
        ("top5_pct", "30.0", "row 1: top1_pct <= top5_pct"),
        ("form", "fused", "row 1, column form is 'fused'"),
        ("model", "RepVGG/A0", "row 1, column model is 'RepVGG/A0'"),
    ],
)
def test_misfits_across_columns_stop_the_collection(tmp_path, column, value, words):
    broken = part(tmp_path, "1.csv", ROW)
    names, cells = (line.split(",") for line in Path(broken).read_text().splitlines())
    cells[names.index(column)] = value
    Path(broken).write_text(",".join(names) + "\n" + ",".join(cells) + "\n")
    with pytest.raises(CompanionError, match=r"1\.csv: ") as caught:
        collect("accuracy", str(tmp_path / "accuracy.csv"), [broken])
    assert words in str(caught.value) and not (tmp_path / "accuracy.csv").exists()


def test_the_same_weights_twice_stop_the_collection(tmp_path):
    parts = [part(tmp_path, f"{name}.csv", ROW) for name in "12"]
    with pytest.raises(CompanionError, match=r"accuracy\.csv: rows 1 and 2 are both for model RepVGG-A0"):
        collect("accuracy", str(tmp_path / "accuracy.csv"), parts)
