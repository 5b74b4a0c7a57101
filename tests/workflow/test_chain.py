"""The whole chain, run for real on a small experiment: archives to report."""

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from notebook_runner import run_notebook

from repvgg_companion.__main__ import main
from repvgg_companion.contract import TABLES, read_rows
from repvgg_companion.evaluation.accuracy import wilson_interval_pct
from repvgg_companion.evidence.compared_line import read_side
from repvgg_companion.files import sha256_of_file, write_json
from repvgg_companion.results.report import FIGURES
from repvgg_companion.speed.samples import find_run
from repvgg_companion.weights_file import load_weights

from .conftest import MICRO, ROOT, snakemake, write_config

RESULTS = Path("results/micro")


@pytest.mark.parametrize("table", ["reparameterization", "accuracy", "complexity", "speed", "kernel_size", "memory"])
def test_tables_fit_the_contract(micro, table):
    path = micro / RESULTS / f"{table}.csv"
    rows = read_rows(path, table)
    assert rows and list(rows[0]) == TABLES[table].names
    assert b"\r" not in path.read_bytes()


def test_the_comparison_knows_a_finished_run_from_one_that_lacks_something(copied):
    results = copied / RESULTS
    assert read_side(results).missing == []
    path = results / "experiment.json"
    write_json(path, json.loads(path.read_text()) | {"memory": {"models": ["RepVGG-A0", "ResNet-50"]}})
    (results / "kernel_size.csv").unlink()
    assert read_side(results).missing == ["kernel_size.csv", "in memory.csv ResNet-50"]


def test_both_forms_are_evaluated_and_agree_with_their_predictions(micro):
    rows = read_rows(micro / RESULTS / "accuracy.csv", "accuracy")
    assert {(row["model"], row["form"]) for row in rows} == {
        (model, form) for model in ("RepVGG-A0", "RepVGG-B1g4") for form in ("train", "deploy")
    }
    files = {path.name: path for path in (micro / RESULTS / "predictions").glob("*.parquet")}
    for row in rows:
        name = (
            f"{row['model']}__{row['recipe']}-{row['training_digest']}__seed{row['seed']}__{row['form']}"
            f"__{row['protocol']}.parquet"
        )
        frame = pd.read_parquet(files[name])
        correct = sum(top[0] == label for top, label in zip(frame["top5"], frame["label"]))
        assert len(frame) == row["n_images"] and row["top1_pct"] == pytest.approx(100 * correct / len(frame))
        low, high = wilson_interval_pct(correct, len(frame))
        assert (row["top1_low_pct"], row["top1_high_pct"]) == pytest.approx((low, high))
        assert row["experiment"] == "micro" and row["dataset"] == "demo-digits" and row["width"] == 0.125


def test_every_digest_names_a_file_that_is_there(micro):
    rows = read_rows(micro / RESULTS / "reparameterization.csv", "reparameterization")
    for row in rows:
        folder = micro / "results/weights/demo-digits" / row["model"] / row["training_digest"] / f"seed{row['seed']}"
        assert sha256_of_file(folder / "train.safetensors") == row["train_sha256"]
        assert sha256_of_file(folder / "deploy.safetensors") == row["deploy_sha256"]
        assert row["passed"] and row["float64_max_relative_error"] <= 1e-10 and row["file_matches_conversion"]
        state, identity = load_weights(folder / "deploy.safetensors")
        assert identity.form == "deploy" and identity.training_digest == row["training_digest"]
        assert sum(tensor.numel() for tensor in state.values()) == row["deploy_params"]
        history = read_rows(folder / "history.csv", "history")
        assert [line["epoch"] for line in history] == [1]


def test_provenance_names_commit_images_weights_and_runs(micro):
    provenance = json.loads((micro / RESULTS / "provenance.json").read_text())
    dataset = json.loads((micro / "results/data/demo-digits/dataset.json").read_text())
    assert provenance["dataset"] == dataset and len(provenance["commit"]) >= 7
    shas = {row["weights_sha256"] for row in read_rows(micro / RESULTS / "accuracy.csv", "accuracy")}
    assert shas <= set(provenance["weights"])
    assert set(provenance["runs"]) == {path.stem for path in (micro / RESULTS / "runs").glob("*.json")}
    for name, digest in provenance["tables_sha256"].items():
        assert sha256_of_file(micro / RESULTS / f"{name}.csv") == digest


def test_the_report_on_own_images_opens_with_their_accuracy_and_weights(micro, tmp_path):
    results = tmp_path / "results" / "micro"
    shutil.copytree(micro / RESULTS, results)
    provenance = json.loads((results / "provenance.json").read_text())
    provenance["dataset"]["dataset"] = "flowers"
    (results / "provenance.json").write_text(json.dumps(provenance))
    words = ["--results", str(results), "--figures", str(micro / "paper_figures/micro")]
    assert main(["report", "--experiment", "micro", *words, "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    places = [
        page.index(f'<h2 id="{name}">') for name in ("accuracy", "weights", "figures", "tables", "claims", "facts")
    ]
    assert places == sorted(places) and page.index('class="verdicts"') > places[4]
    assert str(tmp_path / "results/weights/demo-digits/RepVGG-A0") in page
    first = (micro / RESULTS / "report.html").read_text()
    assert first.index('class="verdicts"') < first.index('<h2 id="claims">') < first.index('<h2 id="accuracy">')
    assert '<h2 id="weights">' not in first
    for heading, in_own in (("Table 2: architecture", False), ("Table 3: variants", False), ("Table 4: 120", True)):
        assert heading in first and (heading in page) == in_own, "a table that only repeats the paper is left out"
    figures = {name: (micro / f"paper_figures/micro/{name}.csv").read_text() for name in FIGURES}
    ours = [name for name, points in figures.items() if any(",paper/" not in line and ",\"the paper" not in line
                                                            for line in points.splitlines()[1:])]  # fmt: skip
    assert "training" in ours and page.count("data:image/svg+xml") == len(ours) < len(FIGURES)
    assert all((f'alt="{heading}"' in page) == (name in ours) for name, heading in FIGURES.items())


def test_tables_figures_and_report_say_that_they_are_no_paper_results(micro):
    for number in range(1, 9):
        for kind in ("csv", "md", "tex"):
            assert (micro / RESULTS / "tables" / f"table{number}.{kind}").stat().st_size > 0
    table4 = (micro / RESULTS / "tables/table4.csv").read_text()
    with (micro / RESULTS / "tables/table4.csv").open() as stream:
        for row in csv.DictReader(stream):
            assert not any(value for key, value in row.items() if key.startswith("ours_top1")), row
    assert "demo" in table4.lower() and "demo" in (micro / RESULTS / "tables/table4.md").read_text().lower()
    for name in ("figure1", "training"):
        svg = (micro / "paper_figures/micro" / f"{name}.svg").read_text()
        assert "demo" in svg.lower(), f"{name}.svg does not say demo"
        assert (micro / "paper_figures/micro" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (micro / "paper_figures/micro" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (micro / RESULTS / "report.html").read_text()
    assert "Demo data: not results of the paper" in page
    panels = [path.stem for path in sorted((micro / "paper_figures/micro/panels").glob("*.svg"))]
    assert panels == ["figure1-a", "figure1-b", "figure1-c"], "the page shows Figure 1 as its panels"
    assert page.count("data:image/svg+xml") == len(FIGURES) - 1 + len(panels)
    assert "(c) measured here: no speed was measured at the paper" in " ".join(page.split()).replace("&#39;", "'")
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_arithmetic_and_structural_claims_are_decided_and_demo_accuracy_decides_none(micro):
    claims = read_rows(micro / RESULTS / "claims.csv", "claims")
    sure = [row for row in claims if row["kind"] in ("arithmetic", "structural")]
    assert len(sure) >= 10
    for row in sure:
        assert row["verdict_number"] in ("met", "not met"), row["id"]
    for row in claims:
        if "top1(" in row["condition"] and "speed(" not in row["condition"]:
            assert row["verdict_number"] == "not tested", row["id"]


def test_a_card_lies_beside_each_set_of_weights(micro):
    accuracy = read_rows(micro / RESULTS / "accuracy.csv", "accuracy")
    folders = list((micro / "results/weights").glob("*/*/*/*"))
    assert len(folders) == 2
    for folder in folders:
        facts, card = json.loads((folder / "config.json").read_text()), (folder / "README.md").read_text()
        rows = [row for row in accuracy if row["model"] == facts["model"]]
        assert [row["top1_pct"] for row in facts["accuracy"]] == [row["top1_pct"] for row in rows]
        assert facts["certificate"]["passed"] and len(facts["classes"]) == 10 and f"{rows[0]['top1_pct']:.2f} [" in card


def test_a_second_run_has_nothing_to_do(micro):
    done = snakemake(micro, "--configfile", write_config(micro, MICRO))
    assert "Nothing to be done" in done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("report: ", "figures: "))]
    assert said == [f"report: {RESULTS}/report.html", "figures: paper_figures/micro"], "as after a run"
    assert not list((micro / RESULTS).glob("measuring*")), "a finished measurement leaves no folder of its state"


def test_a_lost_table_is_collected_again_without_training(copied):
    weights = sorted((copied / "results/weights").rglob("train.safetensors"))
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in weights]
    (copied / RESULTS / "accuracy.csv").unlink()
    done = snakemake(copied, f"{RESULTS}/accuracy.csv", "--configfile", write_config(copied, MICRO))
    assert "rule train:" not in done.stderr and (copied / RESULTS / "accuracy.csv").exists()
    assert before == [(path.stat().st_mtime_ns, path.stat().st_ino) for path in weights]


def test_a_row_that_breaks_the_contract_stops_the_collection(micro, tmp_path):
    part = next((micro / RESULTS / "parts").glob("accuracy-*.csv"))
    names, first, *_ = list(csv.reader(part.open()))
    first[names.index("top1_pct")] = "140.0"
    broken = tmp_path / "accuracy-broken.csv"
    broken.write_text(",".join(names) + "\n" + ",".join(first) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "repvgg_companion", "collect", "--table", "accuracy", str(tmp_path / "accuracy.csv"),
         str(broken)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "column top1_pct" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "accuracy.csv").exists()


def test_the_notebooks_run_on_these_results(micro, monkeypatch, capsys):
    """Beside what they show: the conversion of a trained layer is that of its deploy file."""
    import torch
    from matplotlib import pyplot

    monkeypatch.setenv("REPVGG_EXPERIMENT", "micro")
    monkeypatch.setenv("REPVGG_ROOT", str(micro))
    monkeypatch.setattr(pyplot, "show", lambda: None)
    pyplot.switch_backend("agg")
    shown = []
    run_notebook(ROOT / "notebooks/results.ipynb", shown)
    assert len(shown) == 2 and "device" not in shown[0].columns, "columns with one value are listed once"
    assert "in every row: " in capsys.readouterr().out
    try:
        run_notebook(ROOT / "notebooks/reparameterization.ipynb", shown)
    finally:
        torch.set_grad_enabled(True)
        pyplot.close("all")
    assert "bit for bit" in capsys.readouterr().out


def test_speed_intervals_follow_from_the_raw_samples(micro):
    rows = read_rows(micro / RESULTS / "speed.csv", "speed")
    assert {(row["model"], row["form"]) for row in rows} == {
        ("RepVGG-A0", "train"), ("RepVGG-A0", "deploy"), ("ResNet-18", "deploy"),
    }  # fmt: skip
    run = find_run(micro / RESULTS / "speed", rows[0]["run_id"])
    for row in rows:
        seconds = [sample.seconds for sample in run.of(row)]
        assert len(seconds) == row["n_samples"] >= 20 and row["weights_sha256"] == "random"
        assert row["examples_per_s"] == pytest.approx(row["batch_size"] / statistics.median(seconds), rel=1e-9)
        assert 1 / max(seconds) <= row["low_examples_per_s"] <= row["high_examples_per_s"] <= 1 / min(seconds)
