"""Where a number comes from: the named rows are exactly those whose change changes it."""

import csv
import re
import shutil
from functools import cache

import pytest
from evidence_rows import ROOT
from paper_synthetic import PAPER, plant, write_demo, write_imagenet

from repvgg_companion.__main__ import main
from repvgg_companion.contract import TABLES as TABLES_OF_RUNS
from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import Chosen, choose, read_table
from repvgg_companion.evidence.claim_sources import claim_basis, evidence_of
from repvgg_companion.evidence.ledger_columns import COLUMNS
from repvgg_companion.evidence.result_sources import ledger_nodes
from repvgg_companion.evidence.table_sources import cell_basis
from repvgg_companion.identity import split_model_name
from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.claims import rows_of_claim
from repvgg_companion.paper.comparable_runs import widest
from repvgg_companion.paper.grammar import Comparison
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.table_rows import rows_of

MEASURED_TABLES = ("table1", "table4", "table5", "table6", "table7", "table8")
VALUES = ("_pct", "_per_s", "_ms", "_tflops", "_m", "_b", "_error")
"""A cell whose column ends so is a number that each of its rows moves."""
SCALED = {
    "accuracy": ("top1_pct", "top1_low_pct", "top1_high_pct"),
    "speed": ("examples_per_s", "low_examples_per_s", "high_examples_per_s"),
    "kernel_size": ("time_ms", "low_ms", "high_ms", "tflops"),
    "complexity": ("params", "flops", "wino_muls"),
    "reparameterization": ("float64_max_relative_error",),
}
KEY = ("model", "kernel_size", "form", "seed", "recipe")


def _counts(folder):
    """complexity.csv with planted counts of every network."""
    rows = []
    for place, (model, spec) in enumerate(sorted(MODELS.items()), start=1):
        base, variation = split_model_name(model)
        rows.append({
            "experiment": "synthetic", "model": model, "base_model": base, "variation": variation, "width": 1.0,
            "num_classes": spec.num_classes, "run_id": "count", "form": "deploy", "params": place * 10**7,
            "flops": place * 10**9, "wino_muls": place * 5 * 10**8, "input_px": spec.input_px,
        })  # fmt: skip
    write_rows(folder / "complexity.csv", "complexity", rows)
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory, facts):
    folder = _counts(write_demo(tmp_path_factory.mktemp("demo") / "results" / "demo", facts))
    certificates = read_rows(folder / "reparameterization.csv", "reparameterization")
    name = "PSPNet-RepVGG-B2"
    certificates.append(certificates[0] | {"model": name, "base_model": name, "float64_max_relative_error": 2e-15})
    write_rows(folder / "reparameterization.csv", "reparameterization", certificates)
    return folder


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory, facts):
    return _counts(write_imagenet(tmp_path_factory.mktemp("imagenet") / "results" / "imagenet", facts))


def _evidence(folder, facts):
    results = Results(folder)
    speeds = widest(results)
    return Evidence(facts, results, speeds, "" if speeds else "none")


@cache
def _cells(folder, facts):
    """Every cell of the tables with measurements, by table, row and column."""
    evidence = _evidence(folder, facts)
    return {
        (table, number, column): value
        for table in MEASURED_TABLES
        for number, row in enumerate(rows_of(evidence, table), start=1)
        for column, value in row.items()
    }


def _depending(folder, facts, cells, table, key):
    """The cells that rest on one row by `cell_basis`."""
    evidence = _evidence(folder, facts)
    return {
        cell
        for cell in cells
        for basis in cell_basis(evidence, *cell)
        if basis.table == table and basis.row is not None and {name: basis.row.get(name) for name in KEY} == key
    }


def _sample(rows):
    """A middle, the last and the first row of a table; the first of them that is in a table is tried."""
    return [rows[len(rows) // 2], rows[-1], rows[0]]


def _linked(source, target):
    """A copy of a folder of results whose tables may be changed; all else are links."""
    target.mkdir(parents=True)
    for path in source.parent.iterdir():
        if path.name != source.name:
            (target.parent / path.name).symlink_to(path)
    for path in source.iterdir():
        if path.suffix == ".csv":
            shutil.copy(path, target)
        else:
            (target / path.name).symlink_to(path)
    return target


@pytest.mark.parametrize("table", list(SCALED))
@pytest.mark.parametrize("experiment", ["demo", "imagenet"])
def test_changing_one_raw_row_changes_exactly_the_cells_that_rest_on_it(experiment, table, facts, tmp_path, request):
    source = request.getfixturevalue(experiment)
    if not (source / f"{table}.csv").exists():
        assert (experiment, table) == ("imagenet", "reparameterization")
        return
    before = _cells(source, facts)
    used = 0
    for place, row in enumerate(_sample(read_rows(source / f"{table}.csv", table))):
        folder = _linked(source, tmp_path / str(place) / "results" / experiment)
        key = {name: row.get(name) for name in KEY}
        factor = 1.5 if table in ("complexity", "reparameterization") else 0.99
        change = {name: type(row[name])(row[name] * factor) for name in SCALED[table]}
        plant(folder, table, change, **{name: value for name, value in key.items() if name in row})
        after = _cells(folder, facts)
        changed = {cell for cell, value in after.items() if value != before[cell]}
        depending = _depending(source, facts, before, table, key)
        assert changed <= depending
        numbers = {cell for cell in depending if cell[2].endswith(VALUES) and before[cell] is not None}
        assert {cell for cell in changed if cell[2].endswith(VALUES)} == numbers
        used += bool(numbers)
        if numbers:
            break
    assert used, f"no sampled row of {table} is in any table"


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ("accuracy", {"model": "RepVGG-A0", "recipe": "120-epochs", "seed": "1"}),
        ("accuracy", {"model": "RepVGG-B3", "recipe": "200-epochs", "seed": "0"}),
        ("speed", {"model": "ResNet-50", "form": "deploy"}),
        ("kernel_size", {"kernel_size": 5}),
        ("complexity", {"model": "VGG-16", "form": "deploy"}),
    ],
)
def test_changing_one_raw_row_changes_exactly_the_claims_that_rest_on_it(table, where, facts, imagenet, tmp_path):
    folder = _linked(imagenet, tmp_path / "results" / "imagenet")
    (row,) = [row for row in read_rows(folder / f"{table}.csv", table) if where.items() <= row.items()]
    plant(folder, table, {name: type(row[name])(row[name] * 0.97) for name in SCALED[table]}, **where)
    compared, any_term, changed = set(), set(), set()
    for claim in facts.table("claims"):
        first, second = (rows_of_claim(claim, facts, Results(place)) for place in (imagenet, folder))
        if first != second:
            changed.add(claim["id"])
        setting = {name: first[0][name] for name in ("device", "precision", "backend")}
        for term, basis in claim_basis(claim, evidence_of(claim, facts, Results(imagenet), setting)):
            if any(part.table == table and part.row and where.items() <= part.row.items() for part in basis):
                any_term.add(claim["id"])
                if isinstance(term, Comparison):
                    compared.add(claim["id"])
    assert compared <= changed <= any_term
    assert compared


def _table(tmp_path, text):
    path = tmp_path / "some.csv"
    path.write_text(text)
    return read_table(path)


def test_a_cell_is_named_in_several_ways(tmp_path):
    table = _table(tmp_path, "model,form,batch_size,top1_pct\nRepVGG-A0,train,8,72.4\nRepVGG-A0,deploy,8,72.4\n")
    for cell in ("row 2, column top1_pct", "RepVGG-A0:deploy:top1_pct", "line 3 top1_pct", "repvgg-a0 deploy TOP1_PCT"):
        assert choose(table, cell) == choose(table, "row 2 top1_pct")
    assert choose(table, "batch_size=8").numbers == [1, 2]
    assert choose(table, "RepVGG-A0").column is None


def test_a_value_of_two_words_stands_in_quotes(root, capsys):
    def rows(*cell: str) -> list[str]:
        assert main(["why", str(root / "results/reference/ledger.csv"), *cell]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line and not line[0].isspace()]

    unmet = rows("C02", "not met", "reproduced")
    assert unmet and all("number not met" in row for row in unmet)
    assert rows('C02 "not met" reproduced') == unmet
    assert rows("C02", "verdict_number=not met", "reproduced") == unmet
    assert rows("row 3, column claim")  # words that are no value together are words


def test_a_word_inside_a_cell_counts_where_no_cell_is_that_word(tmp_path):
    text = 'id,evidence_class,setting\nC1,measured here,"fp32, eager"\nC1,measured by others,eager\nC2,printed,\n'
    table = _table(tmp_path, text)
    assert choose(table, "C1 measured here").numbers == [1]
    assert choose(table, "C1, measured").numbers == [1, 2]
    assert choose(table, "eager").numbers == [2], "a whole cell comes first"
    assert choose(table, "fp32").numbers == [1]


@pytest.mark.parametrize(
    ("cell", "numbers"),
    [
        ("residual", [1]),
        ("residual-reorg", [1]),
        ("RESIDUAL reorg", [1]),
        ("B0_residual", [1]),
        ("h100", [1, 2]),
        ("nvidia", [1, 2]),
        ("device=h100 plain", [2]),
        ("only", [3]),
        ("B0", [4]),  # the network itself before its variants
        ("RepVGG", [1, 2, 3, 4]),
        ("2.5", [3]),
        ("5", [4]),  # not the 5 of 2.5 or 0.5
    ],
)
def test_a_part_of_a_name_picks_its_rows(tmp_path, cell, numbers):
    rows = (
        "RepVGG-B0_residual-reorg,gpu-nvidia-h100-80gb,0.5",
        "RepVGG-B0_plain,gpu-nvidia-h100-80gb,0.5",
        "RepVGG-B0_identity-only,cpu-intel-xeon,2.5",
        "RepVGG-B0,cpu-intel-xeon,batch-5",
    )
    assert choose(_table(tmp_path, "model,device,setting\n" + "\n".join(rows) + "\n"), cell).numbers == numbers


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "residul",
            r"'residul' is neither a column nor a value in it; the nearest are residual; its columns are model",
        ),
        ("devise", r"neither a column nor a value in it; the nearest are device"),
        ("h10", r"'h10' is neither a column nor a value in it; the nearest are h100"),
        ("idual", "'idual' is neither a column nor a value"),
        ("model=h100", "'model=h100' is neither a column nor a value"),
    ],
)
def test_a_word_that_is_almost_there_is_told(tmp_path, cell, message):
    table = _table(tmp_path, "model,device\nRepVGG-B0_residual-reorg,gpu-nvidia-h100-80gb\n")
    with pytest.raises(CompanionError, match=message):
        choose(table, cell)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("RepVGG-A9", "'RepVGG-A9' is neither a column nor a value"),
        ("row 7", "has 2 rows; row 7 is not one of them"),
        ("form top1_pct", "names the columns form and top1_pct; name one"),
        ("train batch_size=9", "'batch_size=9' is neither a column nor a value"),
    ],
)
def test_a_cell_that_is_not_there_is_refused(tmp_path, cell, message):
    table = _table(tmp_path, "model,form,batch_size,top1_pct\nRepVGG-A0,train,8,72.4\nRepVGG-A0,deploy,8,72.4\n")
    with pytest.raises(CompanionError, match=message):
        choose(table, cell)


def test_too_many_rows_are_told_apart(tmp_path):
    lines = [f"RepVGG-A0,{'train' if place % 2 else 'deploy'},{place}" for place in range(20)]
    table = _table(tmp_path, "model,form,top1_pct\n" + "\n".join(lines) + "\n")
    with pytest.raises(CompanionError, match=r"20 rows of .* fit 'RepVGG-A0'; add form \(deploy, train\)"):
        choose(table, "RepVGG-A0")


def _said(capsys, *words):
    assert main(["why", *map(str, words), "--paper", str(PAPER)]) == 0
    return capsys.readouterr().out


def test_a_committed_speed_is_followed_to_run_and_samples(root, capsys):
    device = next(path for path in sorted((root / "results" / "devices").iterdir()) if path.is_dir())
    row = next(row for row in read_rows(device / "speed.csv", "speed") if row["n_samples"])
    number = read_rows(device / "speed.csv", "speed").index(row) + 1
    said = _said(capsys, device / "speed.csv", f"row {number}", "column", "examples_per_s")
    assert f"row {number} ({row['model']}, {row['form']}" in said
    assert f"column examples_per_s = {row['examples_per_s']}" in said
    assert f"runs/{row['run_id']}.json: commit " in said
    assert f"{row['run_id']}.parquet: {row['n_samples']} timed samples" in said
    assert "whose median gives the row" in said


def test_a_committed_figure_says_commit_data_and_rows(root, capsys):
    for kind in ("png", "svg", "pdf"):
        said = _said(capsys, root / "paper_figures" / "reference" / f"figure1.{kind}", "RepVGG-A0")
        assert "- commit: see the history of this file" in said
        assert "table4_120epochs.csv: row 1" in said
        assert "speed.csv: row " in said


@pytest.mark.parametrize(
    ("figure", "cell", "expected"),
    [
        ("figure3", "RepVGG-A0", "memory.csv: row "),
        ("table1", "3", "kernel_size.csv: row "),
        ("proxies", "RepVGG-A0", "table4_120epochs.csv: row 1"),
        ("roofline", "ResNet-50", "speed.csv: row "),
        ("branches", "RepVGG-B0_plain", "table6_branch_ablation.csv: row "),
    ],
)
def test_a_point_of_each_committed_figure_is_followed(root, capsys, figure, cell, expected):
    said = _said(capsys, root / "paper_figures" / "reference" / f"{figure}.svg", cell)
    assert expected in said
    assert "data digest " in said


def test_a_point_of_each_picture_of_the_ledger_is_followed(root, capsys):
    folder = root / "paper_figures" / "reference"
    said = _said(capsys, folder / "speedups.svg", "RepVGG-A1")
    assert "pairs of samples of one group of networks, so not the quotient of both medians" in said
    assert "RepVGG-A1 / ResNet-34, measured here" in said and "RepVGG-A1 / ResNet-34, printed" in said
    assert "third_party_speed.csv: line " in said
    assert "speed.csv: row " in said
    assert _said(capsys, folder / "speedups.svg", "A1 / ResNet-34").splitlines()[1:] == said.splitlines()[1:]
    said = _said(capsys, folder / "accuracy-holds.png", "RepVGG-A1")
    assert "third_party_accuracy.csv: line " in said
    assert "timm_reference.csv: line " in said
    said = _said(capsys, folder / "figure1-others.svg", "RepVGG-B2g4")
    assert said.count("figure1_points.csv: row ") == 12, "120 and 200 epochs in six panels"
    assert said.count("third_party_speed.csv: line ") == said.count("form: deploy") == 12
    assert main(["why", str(folder / "figure1-others.png"), "RepVGG-B1g2", "--paper", str(PAPER)]) == 2
    assert "figure1-others has no point of 'RepVGG-B1g2'" in capsys.readouterr().err
    assert main(["why", str(folder / "speedups.pdf"), "RepVGG-Z9", "--paper", str(PAPER)]) == 2
    assert "speedups has no point of 'RepVGG-Z9'" in capsys.readouterr().err


def test_a_figure_tells_whether_its_data_have_changed(demo, tmp_path, capsys):
    figure = tmp_path / "figure1.svg"
    figure.write_text("<svg>commit abc; data 01234567</svg>")
    said = _said(capsys, figure, "RepVGG-A0", "--results", demo)
    assert "are not those (" in said
    assert "accuracy.csv: row " in said
    assert main(["why", str(figure), "ResNet-99", "--results", str(demo), "--paper", str(PAPER)]) == 2
    assert "figure1 has no point of 'ResNet-99'" in capsys.readouterr().err


LEDGER = (
    ("C20", "printed", "the paper", "", "printed top1(RepVGG-A0, 120-epochs); printed speed(ResNet-18)"),
    ("C08", "printed", "the paper", "", "printed density(3)"),
    ("C20", "re-evaluated by others", "somebody", "", "paper/third_party_accuracy.csv line 2"),
    ("C20", "measured here", "this companion", "SETTING", "SOURCE"),
    ("C20", "small study", "digits", "", "accuracy.csv RepVGG-A0 deploy, 1 seeds"),
    ("C06", "counted", "this companion", "", "trace of the deploy forms; count of VGG-16 deploy"),
    ("C07", "re-evaluated by others", "somebody", "", "paper/third_party_accuracy.csv lines 25 to 27"),
)
"""Claim, class, source, setting and evidence."""


def _write_ledger(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [column.name for column in COLUMNS], restval="x", lineterminator="\n")
        writer.writeheader()
        names = ("id", "evidence_class", "source", "setting", "evidence")
        writer.writerows(dict(zip(names, row, strict=True)) | {"part": "whole claim"} for row in rows)


def test_each_kind_of_ledger_row_is_followed(root, demo, tmp_path, capsys):
    device = next(path for path in sorted((root / "results" / "devices").iterdir()) if path.is_dir())
    _linked(device, tmp_path / "results" / "devices" / device.name)
    (tmp_path / "results" / "studies" / "digits").mkdir(parents=True)
    shutil.copy(demo / "accuracy.csv", tmp_path / "results" / "studies" / "digits")
    ledger = tmp_path / "results" / "reference" / "ledger.csv"
    row = next(row for row in read_rows(device / "speed.csv", "speed") if row["n_samples"])
    words = [row[name] for name in ("run_id", "model", "form", "precision", "backend")]
    filled = {
        "SOURCE": f"speed.csv {' '.join(words)} batch {row['batch_size']} (flagged: drift; spread)",
        "SETTING": f"{row['precision']}, {row['backend']}, {row['memory_format']}, batch {row['batch_size']}",
    }
    _write_ledger(ledger, [[filled.get(cell, cell) for cell in cells] for cells in LEDGER])
    expected = {
        "row 1": ["table4_120epochs.csv: row 1, column top1_pct = 72.41", "column speed_examples_per_s = 2442"],
        "row 2": ["table1_kernel_size.csv: row 2, column density_tflops = 38.1"],
        "row 3": ["third_party_accuracy.csv: line 2: model: RepVGG-A0"],
        "row 4": [f"{device.name}/speed.csv: row ", "timed samples", "whose median gives the row"],
        "row 5": ["studies/digits/accuracy.csv: row "],
        "row 6": ["trace of the deploy forms", "counted by this companion on the built network"],
        "row 7": [f"third_party_accuracy.csv: line {line}: model: " for line in (25, 26, 27)],
    }
    for cell, parts in expected.items():
        said = _said(capsys, ledger, cell)
        for part in parts:
            assert part in said
    _write_ledger(ledger, [("C20", "printed", "x", "", "paper/third_party_accuracy.csv line 999")])
    assert main(["why", str(ledger), "row 1", "--paper", str(PAPER)]) == 2
    assert "third_party_accuracy.csv has no line 999" in capsys.readouterr().err


def test_every_part_of_the_committed_ledger_leads_to_a_row(root, facts):
    """One row of each claim and class: each row of a table that its evidence names is still there."""
    path, seen = root / "results" / "reference" / "ledger.csv", set()
    table = read_table(path)
    for number, row in enumerate(table.rows, start=1):
        if (row["id"], row["evidence_class"]) not in seen:
            seen.add((row["id"], row["evidence_class"]))
            (node,) = ledger_nodes(Chosen(table, [number], None), facts)
            _, *nodes = node.children
            assert nodes
            for node in nodes:
                assert "no longer has such a row" not in node.text
                assert ".csv" not in node.text or re.search(r": (row|line) \d+|\d seeds", node.text), node.text
    assert len(seen) > 100


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "paper_figures" / "reference").glob("*.csv")))
def test_a_point_of_every_committed_figure_leads_to_a_row(root, capsys, file):
    path = root / "paper_figures" / "reference" / file
    points = read_table(path)
    if not points.rows:
        assert main(["why", str(path.with_suffix(".svg")), "RepVGG-A0", "--paper", str(PAPER)]) == 2
        assert "has no points" in capsys.readouterr().err
        return
    for number in (1, len(points.rows)):
        said = _said(capsys, path, f"row {number}")
        assert f"{file}: row {number} (" in said.splitlines()[0] and len(said.splitlines()) > 1
        assert re.search(r"\.csv: (row|line) \d+|the paper, Figure 3", said), said
        assert "no longer has such a row" not in said
        name = points.rows[number - 1]["name"]
        beside = _said(capsys, path.with_suffix(".svg"), f"row {number}")
        assert said.splitlines()[1] in beside and "data digest" in beside, name


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "results" / "reference").glob("*.csv")))
def test_a_row_of_every_committed_reference_table_is_followed(root, capsys, file):
    said = _said(capsys, root / "results" / "reference" / file, "row 2")
    assert len(said.splitlines()) > 1
    if file.startswith("study-"):
        assert said.count("accuracy.csv: row ") >= 6, "three seeds or more of both networks"
        assert said.count("paper/table") == 2, "the printed accuracies of both"


def test_a_row_of_a_study_leads_to_its_training(root, capsys):
    for study in sorted((root / "results" / "studies").iterdir()):
        said = _said(capsys, study / "accuracy.csv", "row 1")
        for part in (
            "weights: SHA-256 ",
            "the training, one row per epoch",
            "images: dataset ",
            "commit ",
            "predictions/",
        ):
            assert part in said
        history = next((study / "history").rglob("*.csv"))
        said = _said(capsys, history, "row 1 val_top1_pct")
        assert "epoch 1: val_top1_pct = " in said and "accuracy.csv: row " in said


def test_an_epoch_beside_its_weights_names_training_and_images(tmp_path, capsys):
    folder = tmp_path / "results" / "weights" / "digits" / "RepVGG-A0" / "deadbeef" / "seed3"
    epoch = dict.fromkeys(TABLES_OF_RUNS["history"].names, 1.0) | {"epoch": 1}
    write_rows(folder / "history.csv", "history", [epoch])
    (folder / "train.safetensors").write_bytes(b"weights")
    said = _said(capsys, folder / "history.csv", "row 1")
    assert "training of RepVGG-A0 on digits, seed3, training digest deadbeef" in said
    assert "train.safetensors: weights, SHA-256 " in said and "data/digits/dataset.json is not here" in said


def test_a_table_cell_a_claim_and_a_printed_row_are_followed(demo, facts, tmp_path, capsys):
    experiment = ["--experiment", "demo", "--results", str(demo), "--paper", str(PAPER)]
    assert main(["tables", *experiment, "--output", str(demo / "tables")]) == 0
    capsys.readouterr()
    said = _said(capsys, demo / "tables" / "table4.csv", "RepVGG-A0:demo_top1_pct")
    assert "row 1 (RepVGG-A0), column demo_top1_pct is " in said
    assert "accuracy.csv: row " in said
    assert "predictions/RepVGG-A0__demo-5-epochs-deadbeef__seed0" in said
    assert "weights: SHA-256 " + "0" * 64 in said
    empty = _said(capsys, demo / "tables" / "table4.csv", "RepVGG-A0:ours_top1_pct")
    assert "is empty: " in empty
    assert "decides nothing about ImageNet" in empty
    rows = rows_of_claim(next(claim for claim in facts.table("claims") if claim["id"] == "C20"), facts, Results(demo))
    write_rows(demo / "claims.csv", "claims", rows, keep_order=True)
    said = _said(capsys, demo / "claims.csv", "C20")
    assert "term speed(RepVGG-A0)/speed(ResNet-18) >= 1.33" in said
    assert said.count("speed.csv: row ") == 2
    assert "nothing: RepVGG-A0 was evaluated on demo-digits" in said
    said = _said(capsys, PAPER / "third_party_accuracy.csv", "row 1")
    assert "source: mmpretrain" in said


def test_the_verb_refuses_what_it_cannot_follow(tmp_path, capsys):
    (tmp_path / "results" / "x" / "parts").mkdir(parents=True)
    (tmp_path / "bare.svg").write_text("<svg/>")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.md").write_text("| a |")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    (tmp_path / "short.csv").write_text("a,b\n1,2\n3\n")
    (tmp_path / "latin.csv").write_bytes("a,b\n1,2\n1,\u00e9\n".encode("latin-1"))
    points = (PAPER.parent / "paper_figures" / "reference" / "figure1.csv").read_text().splitlines()
    (tmp_path / "older.csv").write_text("\n".join(line.rpartition(",")[0] for line in points))
    claims = TABLES_OF_RUNS["claims"].names
    (tmp_path / "claims.csv").write_text(",".join(claims[:-2]) + "\n" + "," * (len(claims) - 3) + "\n")
    comparison = TABLES_OF_RUNS["comparison"].names
    (tmp_path / "compared.csv").write_text(",".join(comparison) + "\n" + "," * (len(comparison) - 1) + "\n")
    memory = TABLES_OF_RUNS["memory"].names
    (tmp_path / "results" / "x" / "parts" / "memory-1.csv").write_text(",".join(memory) + "\n" + "," * 14 + "\n")
    cases = {
        ("missing.csv", ""): "does not exist or is not a file",
        ("results", ""): "does not exist or is not a file",
        ("notes.txt", ""): "is neither a CSV file nor a figure",
        ("other.md", ""): "other.csv, which has its rows",
        ("bare.svg", ""): "holds neither commit nor data digest",
        ("other.csv", "row 1"): "is not a table that can be traced",
        ("older.csv", "row 1"): "has no column disturbed, so another version of the companion wrote it",
        ("claims.csv", "row 1"): f"has no column {claims[-2]}, so another version of the companion wrote it",
        ("empty.csv", ""): "empty.csv line 1: the file is empty",
        ("twice.csv", "row 1"): "twice.csv line 1: the column 'a' is there twice",
        ("short.csv", "row 1"): "short.csv line 3: it has 1 cells instead of 2",
        ("latin.csv", "row 1"): "latin.csv line 3: it is not UTF-8 text",
        ("compared.csv", "row 1"): "compares two folders; ask for a cell of one of them",
        ("results/x/parts/memory-1.csv", "row 1"): "is a part of a table; ask for a cell of memory.csv",
    }
    for (name, cell), message in cases.items():
        assert main(["why", str(tmp_path / name), *cell.split(), "--paper", str(PAPER)]) == 2
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1


def test_a_panel_of_its_own_shows_only_its_points(root, capsys):
    folder = root / "paper_figures" / "reference"
    whole = _said(capsys, folder / "figure1.svg", "RepVGG-B3")
    panels = [_said(capsys, path, "RepVGG-B3") for path in sorted((folder / "panels").glob("figure1-[bc].svg"))]
    points = [[line for line in said.splitlines() if "figure1.csv: row " in line] for said in (whole, *panels)]
    assert points[1] and len(points[1]) < len(points[0]) and set(points[1]) < set(points[0])
    assert all(": row " in line and "((b) " in line for line in points[1])
