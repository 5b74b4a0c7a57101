"""Small studies: what `check-studies` refuses, the statistics of their pairs, and what is written from them."""

import csv
import shutil

import numpy as np
import pytest
from evidence_rows import ROOT, STUDY, plant_study
from scipy import stats

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.check_studies import add_study
from repvgg_companion.evidence.from_studies import read_study, study_rows
from repvgg_companion.evidence.ledger import write_study_tables
from repvgg_companion.evidence.picture_points import printed_pair_source
from repvgg_companion.evidence.sources import read_sources
from repvgg_companion.evidence.study_pairs import NOT_RESOLVED, OPPOSITE, SAME, pairs_of
from repvgg_companion.evidence.study_picture import pair_name, study_figure
from repvgg_companion.experiment.load import load_experiment, read_experiment
from repvgg_companion.files import read_json, write_json
from repvgg_companion.paper.figure_style import style
from repvgg_companion.paper.inference import half_width, holm, seeds_to_resolve

BOTH, PLAIN, IDENTITY, CONV1X1 = (
    f"RepVGG-B0{ending}" for ending in ("", "_plain", "_identity-only", "_1x1-only")
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished experiment and the study made from it."""
    root = tmp_path_factory.mktemp("study")
    plant_study(root)
    return root


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the study that a test may damage."""
    shutil.copytree(finished / "results" / "studies", tmp_path / "studies")
    return tmp_path / "studies" / STUDY


def checked(folder, capsys):
    """The exit status and what was said."""
    status = main(["check-studies", "--folder", str(folder.parent), "--paper", str(ROOT / "paper")])
    streams = capsys.readouterr()
    return status, streams.out + streams.err


def edited(folder, column, value, table="accuracy"):
    """Change one cell of the first row of a table."""
    path = folder / f"{table}.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[0][column] = value
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_a_complete_study_is_in_order(folder, capsys):
    assert checked(folder, capsys) == (0, f"{STUDY}: 20 trainings of 4 networks are in order\n")
    assert {row.name for row in folder.iterdir()} == {
        "accuracy.csv", "experiment.json", "history", "predictions", "provenance.json", "reparameterization.csv", "runs"
    }  # fmt: skip


def test_a_study_is_never_written_over(finished, facts):
    with pytest.raises(CompanionError, match="exists already"):
        add_study(finished / "results" / STUDY, finished / "results" / "studies", facts)


def test_a_study_that_is_refused_leaves_no_folder_behind(finished, tmp_path, facts):
    shutil.copytree(finished / "results" / STUDY, tmp_path / "results" / STUDY)
    shutil.copytree(finished / "results" / "weights", tmp_path / "results" / "weights")
    edited(tmp_path / "results" / STUDY, "top1_pct", "60.5")
    with pytest.raises(CompanionError, match=f"{STUDY} is not added: .* its predictions give 60.0"):
        add_study(tmp_path / "results" / STUDY, tmp_path / "studies", facts)
    assert not list((tmp_path / "studies").iterdir())


def part_of(finished, folder, seeds, **changes):
    """The results of the experiment as if it had these seeds alone."""
    whole, part = finished / "results" / STUDY, folder / "results" / STUDY
    shutil.copytree(whole, part)
    shutil.copytree(finished / "results" / "weights", folder / "results" / "weights")
    for table in ("accuracy", "reparameterization"):
        rows = [row for row in read_rows(whole / f"{table}.csv", table) if int(row["seed"]) in seeds]
        write_rows(part / f"{table}.csv", table, rows)
    settings = read_json(whole / "experiment.json")
    settings["training"][0]["seeds"] = list(seeds)
    write_json(part / "experiment.json", settings | changes)
    write_json(part / "provenance.json", {"runs": {f"run-{seeds[0]}": {}}, "devices": [f"device {seeds[0]}"]})
    return part


def test_a_study_grows_by_further_seeds_and_is_then_the_same(finished, folder, tmp_path, facts, capsys):
    studies = tmp_path / "grown"
    add_study(part_of(finished, tmp_path / "one", [0, 3]), studies, facts)
    assert checked(studies / STUDY, capsys) == (
        0, f"{STUDY}: 8 trainings of 4 networks are in order; nothing is compared before three seeds of each network\n"
    )  # fmt: skip
    assert not read_sources(ROOT / "paper", tmp_path / "no-devices", studies).studies
    add_study(part_of(finished, tmp_path / "two", [1, 2, 4]), studies, facts)
    assert checked(studies / STUDY, capsys) == (0, f"{STUDY}: 20 trainings of 4 networks are in order\n")
    for name in ("accuracy.csv", "reparameterization.csv", "experiment.json"):
        assert (studies / STUDY / name).read_bytes() == (folder / name).read_bytes()
    provenance = read_json(studies / STUDY / "provenance.json")
    assert set(provenance["runs"]) == {"run-0", "run-1"} and provenance["devices"] == ["device 0", "device 1"]
    assert provenance["configuration"] == read_json(folder / "experiment.json")
    assert [path.name for path in studies.iterdir()] == [STUDY]


@pytest.mark.parametrize(
    ("seeds", "changes", "said"),
    [
        ([3, 4], {}, f"{STUDY} exists already and has {BOTH} seed 3; only further seeds can be added"),
        ([4], {"data": {"dataset": "others", "num_classes": 10}}, "exists already with other data; only further"),
        ([4], {"recipes": {"study": {"epochs": 3}}}, "exists already with other recipes; only further seeds"),
    ],
)
def test_what_is_no_further_part_of_a_study_changes_nothing(finished, tmp_path, facts, seeds, changes, said):
    studies = tmp_path / "grown"
    add_study(part_of(finished, tmp_path / "one", [0, 3]), studies, facts)
    before = {path: path.read_bytes() for path in studies.rglob("*") if path.is_file()}
    with pytest.raises(CompanionError, match=said):
        add_study(part_of(finished, tmp_path / "two", seeds, **changes), studies, facts)
    assert {path: path.read_bytes() for path in studies.rglob("*") if path.is_file()} == before


DAMAGES = {
    "a missing seed": (
        lambda folder: (folder / "accuracy.csv").write_text(
            "".join((folder / "accuracy.csv").read_text().splitlines(keepends=True)[:-1])
        ),
        "has no row of RepVGG-B0_plain seed 4; a study is complete",
    ),
    "another accuracy": (lambda folder: edited(folder, "top1_pct", "60.5"), "its predictions give 60.0"),
    "another recipe for one seed": (
        lambda folder: edited(folder, "training_digest", "deadbeef"), "trained by another recipe"
    ),
    "another recipe for all": (
        lambda folder: write_json(
            folder / "experiment.json",
            (settings := read_json(folder / "experiment.json"))
            | {"recipes": {"study": settings["recipes"]["study"] | {"learning_rate": 0.1}}},
        ),
        "it was trained by another recipe",
    ),
    "another width": (lambda folder: edited(folder, "width", "0.5"), "width 0.25 instead of 0.5; a study has one"),
    "other weights": (lambda folder: edited(folder, "weights_sha256", "x"), "other weights were evaluated"),
    "no certificate": (
        lambda folder: edited(folder, "passed", "false", "reparameterization"), "its certificate did not pass"
    ),
    "no predictions": (
        lambda folder: next((folder / "predictions").glob("RepVGG-B0__*")).unlink(), "parquet is missing"
    ),
    "no history": (lambda folder: (folder / "history" / BOTH / "seed0.csv").unlink(), "seed0.csv is missing"),
    "a history cut short": (
        lambda folder: (path := folder / "history" / BOTH / "seed0.csv").write_text(
            "".join(path.read_text().splitlines(keepends=True)[:2])
        ),
        "does not have the 2 epochs of the recipe",
    ),
    "no run": (lambda folder: (folder / "runs" / "evaluate.json").unlink(), "whose record is missing"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda name: name.replace(" ", "-"))
def test_what_is_missing_or_does_not_follow_is_one_sentence(damage, folder, capsys):
    harm, sentence = DAMAGES[damage]
    harm(folder)
    status, said = checked(folder, capsys)
    assert status == 2 and sentence in said and said.count("\n") == 1


def test_networks_that_cannot_be_converted_are_judged_in_train_form(facts):
    study = read_study(ROOT / "results" / "studies" / "study-tiny-imagenet-table7", facts)
    forms = {row["model"]: row["form"] for row in study.rows}
    assert {model for model, form in forms.items() if form == "train"} == {
        f"{BOTH}_relu-in-branch",
        f"{BOTH}_residual-reorg",
    }
    assert len(forms) == 11 and len(study.rows) == 55
    curves = study_figure(study).axes[1].get_lines()
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in curves}) == 11


def test_recipes_of_a_study_differ_in_the_learning_rate_only(folder, facts):
    path = folder / "accuracy.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line.replace(",study,", ",slow,") if PLAIN in line else line for line in lines))
    settings = read_json(folder / "experiment.json")
    study = settings["recipes"]["study"]

    def with_recipe(changes):
        write_json(folder / "experiment.json", settings | {"recipes": {"study": study, "slow": study | changes}})

    with_recipe({"learning_rate": 0.1})
    assert {row["recipe"] for row in read_study(folder, facts).rows} == {"study", "slow"}
    with_recipe({"learning_rate": 0.1, "epochs": 3})
    with pytest.raises(CompanionError, match="RepVGG-B0_plain has recipe slow instead of study; a study has"):
        read_study(folder, facts)
    write_json(folder / "experiment.json", settings)
    with pytest.raises(CompanionError, match="has recipe slow instead of study"):
        read_study(folder, facts)


def test_pairs_agree_with_scipy(finished, facts):
    study = read_study(finished / "results" / "studies" / STUDY, facts)
    assert [(pair.upper, pair.lower) for pair in study.pairs] == [
        (CONV1X1, PLAIN), (IDENTITY, CONV1X1), (BOTH, PLAIN), (BOTH, IDENTITY), (BOTH, CONV1X1)
    ]  # fmt: skip
    p_values = []
    for pair in study.pairs:
        upper, lower = (list(study.accuracies[name].values()) for name in (pair.upper, pair.lower))
        found = stats.ttest_ind(upper, lower, equal_var=False)
        interval = found.confidence_interval(0.95)
        assert (pair.span.low, pair.span.high) == pytest.approx((interval.low, interval.high))
        assert pair.paired.low == pytest.approx(pair.difference)  # each seed adds the same to both
        p_values.append(found.pvalue)
    order = np.argsort(p_values)  # scipy has no Holm: by its definition
    running = np.maximum.accumulate([p_values[place] * (5 - rank) for rank, place in enumerate(order)])
    expected = np.minimum(1, running[np.argsort(order)])
    assert [pair.p_corrected for pair in study.pairs] == pytest.approx(list(expected))
    verdicts = {(pair.upper, pair.lower): pair.verdict for pair in study.pairs}
    assert verdicts[BOTH, PLAIN] == SAME and verdicts[BOTH, IDENTITY] == NOT_RESOLVED


def test_an_effect_against_the_paper_is_the_opposite_direction(facts):
    accuracies = {BOTH: {"0": 50.0, "1": 50.2, "2": 50.1}, IDENTITY: {"0": 60.0, "1": 60.2, "2": 60.1}}
    (pair,) = pairs_of(accuracies, facts)
    assert pair.verdict == OPPOSITE and pair.difference == pytest.approx(-10)
    assert not pairs_of({name: dict(list(seeds.items())[:2]) for name, seeds in accuracies.items()}, facts)


def test_a_network_with_strides_of_its_own_stands_for_the_papers(facts):
    plain = {"0": 50.0, "1": 50.2, "2": 50.1}
    accuracies = {"RepVGG-B0-s2.2.2.1.1": plain, "RepVGG-B0-s2.2.2.1.1_plain": dict.fromkeys(plain, 9)}
    (pair,) = pairs_of(accuracies, facts)
    assert (pair.upper, pair.lower) == tuple(accuracies) and pair.printed == pytest.approx(2.75)
    assert pair_name(pair) == "both - plain"
    assert printed_pair_source(facts, pair).split("; ")[1] == "paper/table6_branch_ablation.csv row 1"


def test_rows_of_other_strides_are_no_part_of_a_study(folder, capsys):
    rows = read_rows(folder / "accuracy.csv", "accuracy")
    rows = [row | ({"model": row["model"].replace("B0", "B0-s2.2.2.1.1", 1)} if number else {})
            for number, row in enumerate(rows)]  # fmt: skip
    rows = [row | {"base_model": row["model"].partition("_")[0]} for row in rows]
    write_rows(folder / "accuracy.csv", "accuracy", rows)
    status, said = checked(folder, capsys)
    assert status == 2 and "has strides 2.2.2.1.1; a study has one dataset" in said and said.count("\n") == 1


def test_holm_and_the_number_of_seeds():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    one, other = [10.0, 11.0, 12.0], [9.0, 10.5, 12.0]
    n = seeds_to_resolve(0.5, one, other)
    error = np.sqrt((np.var(one, ddof=1) + np.var(other, ddof=1)) / n)
    assert half_width(error, 2 * n - 2) == pytest.approx(0.5, rel=0.05)
    assert seeds_to_resolve(0.0, one, other) is None


def test_the_ledger_rows_of_a_study_never_judge_the_number(finished, facts):
    study = read_study(finished / "results" / "studies" / STUDY, facts)
    rows = {claim["id"]: row for claim in facts.table("claims") for row in study_rows(claim, [study])}
    assert set(rows) == {"C36", "C37", "C38"}
    assert {row["verdict_number"] for row in rows.values()} == {"not tested"}
    assert rows["C38"]["verdict_inference"] == NOT_RESOLVED and "B0 less plain: same direction" in rows["C38"]["reason"]
    assert rows["C37"]["value"] == "+4.00 [1.694, 6.306]; +2.00 [-0.306, 4.306]"


def test_a_study_is_drawn_and_written_as_tables(finished, facts, tmp_path):
    study = read_study(finished / "results" / "studies" / STUDY, facts)
    with style():
        figure = study_figure(study)
        top, bottom = figure.axes
        assert len(top.get_yticks()) == 5 and len(bottom.lines) == 4 and len(bottom.collections) == 4
    write_study_tables(study, tmp_path / STUDY)
    with (tmp_path / f"{STUDY}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["verdict"] for row in rows] == [pair.verdict for pair in study.pairs]
    assert "| both - plain |" in (tmp_path / f"{STUDY}.md").read_text()
    assert "\\begin{tabular}" in (tmp_path / f"{STUDY}.tex").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "studies").glob("*")), ids=lambda path: path.name)
def test_committed_studies_are_in_order_and_of_the_committed_file(path, capsys):
    experiment = read_experiment(ROOT / "config" / f"{path.name}.yaml")
    stored = load_experiment(read_json(path / "experiment.json"), str(path))
    assert (stored.recipes, stored.training) == (experiment.recipes, experiment.training)
    assert (stored.data.dataset, stored.data.classes) == (experiment.data.dataset, experiment.data.classes)
    status, said = checked(path, capsys)
    assert status == 0, said
