"""The committed measurements of other machines: in order, possible, and what the reference figures are drawn from."""

import json
import re
from pathlib import Path

import pytest

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.models.names import REPVGG_MODELS
from repvgg_companion.paper.comparable_runs import widest_of_each_device
from repvgg_companion.paper.figures import PANELS, TITLES
from repvgg_companion.paper.ours import Results
from repvgg_companion.speed.check_devices import check_device
from repvgg_companion.speed.device_folder import DEVICE_TABLES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def devices():
    found = sorted(path for path in (ROOT / "results" / "devices").iterdir() if path.is_dir())
    assert found, "at least one device is committed"
    return found


def test_committed_rows_are_in_order(devices):
    for device in devices:
        rows, _ = check_device(device)
        assert rows > 50


def test_committed_rows_hold_both_forms_of_all_fourteen_and_their_provenance(devices):
    for device in devices:
        rows = read_rows(device / "speed.csv", "speed")
        measured = {(row["model"], row["form"]) for row in rows if row["examples_per_s"] is not None}
        assert {(model, form) for model in REPVGG_MODELS for form in ("train", "deploy")} <= measured
        tables = [read_rows(path, name) for name in DEVICE_TABLES if (path := device / f"{name}.csv").exists()]
        used = {row["run_id"] for table in tables for row in table}
        assert {path.stem for path in (device / "runs").iterdir()} == used, "no file of a run without rows"
        for run in used:
            text = (device / "runs" / f"{run}.json").read_text(encoding="utf-8")
            assert re.fullmatch(r"[0-9a-f]{40}", json.loads(text)["commit"]), "measured from a clean checkout"
            assert not re.search(r'"/(home|root|tmp|work|Users)', text), "no path of the machine is published"


def test_reference_figures_are_drawn_from_the_committed_rows(devices, tmp_path):
    folder = ROOT / "paper_figures" / "reference"
    for name in (*sorted(set(TITLES) - {"training"}), *(f"{PANELS}/figure1-{letter}" for letter in "abcd")):
        for kind in ("pdf", "svg", "png", "md", "tex"):
            assert (folder / f"{name}.{kind}").stat().st_size > 100, "run 'make reference'"
        if PANELS not in name:
            assert (folder / f"{name}.csv").read_text().startswith("panel,series,name,"), "run 'make reference'"
    assert main(["figures", "--experiment", "reference", "--results", str(ROOT / "results" / "devices"), "--paper",
                 str(ROOT / "paper"), "--output", str(tmp_path), "--only", "figure1"]) == 0  # fmt: skip
    runs = widest_of_each_device(Results(ROOT / "results" / "devices"))
    assert (tmp_path / "figure1.csv").read_bytes() == (folder / "figure1.csv").read_bytes(), "run 'make reference'"
    assert {one.device for one in runs} == {device.name for device in devices}
    for text in ((tmp_path / "figure1.svg").read_text(), (folder / "figure1.svg").read_text()):
        for one in runs:
            assert one.device in text, "run 'make reference'"
            assert one.details in text, "run 'make reference'"
        assert "1080" in text
