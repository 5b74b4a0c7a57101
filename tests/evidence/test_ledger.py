"""The ledger: committed as the verb writes it, classes visible wherever they are shown, bad input refused."""

import csv
import io
import re

import pytest
from evidence_rows import DEVICE, REEVALUATION, RETRAINING, ROOT, SPEED_SOURCE, STUDY, sources_of

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.device_folders import check_device_folders
from repvgg_companion.evidence.evidence_classes import CLASSES
from repvgg_companion.evidence.from_studies import read_studies
from repvgg_companion.evidence.groups import require_claims
from repvgg_companion.evidence.ledger import counts
from repvgg_companion.evidence.ledger_columns import COLUMNS, write_dictionary, write_ledger
from repvgg_companion.evidence.ledger_page import page
from repvgg_companion.evidence.ledger_text import markdown
from repvgg_companion.evidence.pictures import pictures
from repvgg_companion.evidence.summaries import NOBODY, require_evidence, summary
from repvgg_companion.paper.printed import Facts

REFERENCE = ROOT / "results" / "reference"
CLAIMS = Facts(ROOT / "paper").table("claims")
PLANTED = {
    f"timm, {SPEED_SOURCE}": ("C24", "measured by others", "met", "inconclusive"),
    REEVALUATION: ("C27", "re-evaluated by others", "not met", "contradicted"),
    RETRAINING: ("C27", "retrained by others", "open", "inconclusive"),
    STUDY: ("C38", "small study", "not tested", "not resolved"),
}


def test_the_committed_ledger_is_what_the_verb_writes(committed_rows, tmp_path):
    write_ledger(tmp_path / "ledger.csv", committed_rows)
    write_dictionary(tmp_path / "ledger-dictionary.csv")
    for name in ("ledger.csv", "ledger-dictionary.csv"):
        assert (tmp_path / name).read_bytes() == (REFERENCE / name).read_bytes(), "run 'make reference'"
    assert markdown(CLAIMS, committed_rows) == (REFERENCE / "ledger.md").read_text(encoding="utf-8")
    studies = read_studies(ROOT / "results" / "studies", Facts(ROOT / "paper"))
    without_pictures = re.compile(r'src="data:image/svg\+xml;base64,[^"]*"| class="wide"')
    written, found = (without_pictures.sub("", text) for text in (
        page(CLAIMS, committed_rows, dict.fromkeys((one.title for one in pictures(studies).values()), "")),
        (REFERENCE / "ledger.html").read_text(encoding="utf-8")))  # fmt: skip
    assert written == found, "run 'make reference'"


def test_every_claim_has_a_row_or_a_stated_reason(committed_rows):
    found = {row["id"] for row in committed_rows}
    assert {claim["id"] for claim in CLAIMS} - found == set(NOBODY)
    decided = {row["id"] for row in committed_rows if row["verdict_number"] in ("met", "not met")}
    assert len(decided) >= 45
    assert f"{len(decided)} of 56 claims" in counts(committed_rows, len(CLAIMS))
    for claim in CLAIMS:
        text = summary(claim, [row for row in committed_rows if row["id"] == claim["id"]])
        assert text.endswith(".") and len(text) < 600


def test_no_row_appears_twice(committed_rows):
    keys = [(row["id"], row["evidence_class"], row["source"], row["device"], row["setting"]) for row in committed_rows]
    assert len(keys) == len(set(keys))


def test_evidence_without_an_interval_never_settles_an_inference(committed_rows):
    text = markdown(CLAIMS, committed_rows).replace("\\|", "|")
    for row in committed_rows:
        if row["evidence_class"] in ("measured by others", "retrained by others", "printed"):
            assert row["verdict_inference"] in ("inconclusive", "not tested"), row
        if row["part"] == "no part":
            assert row["verdict_number"] == row["verdict_inference"] == "not tested"
            assert f"| no part: {row['reason']}" in text and row["reason"]


def test_the_dictionary_explains_every_column():
    rows = list(csv.DictReader(io.StringIO((REFERENCE / "ledger-dictionary.csv").read_text(encoding="utf-8"))))
    with (REFERENCE / "ledger.csv").open(encoding="utf-8", newline="") as stream:
        ledger = list(csv.DictReader(stream))
    assert [row["column"] for row in rows] == list(ledger[0]) == [column.name for column in COLUMNS]
    for row in rows:
        empty = any(not one[row["column"]] for one in ledger)
        assert not empty or row["empty"] != "never", row["column"]
    assert {row["evidence_class"] for row in ledger} <= {one.name for one in CLASSES}


@pytest.mark.parametrize("source", list(PLANTED))
def test_a_planted_row_keeps_its_class_wherever_it_is_shown(planted, source):
    sources, rows = planted
    claim_id, evidence_class, number, inference = PLANTED[source]
    (row,) = [row for row in rows if (row["id"], row["source"]) == (claim_id, source)]
    assert (row["evidence_class"], row["verdict_number"]) == (evidence_class, number)
    assert row["verdict_inference"] == inference
    claims = sources.facts.table("claims")
    lines = [line for line in markdown(claims, rows).splitlines() if f"| {source} |" in line]
    assert lines and all(line.startswith(f"| {evidence_class} |") for line in lines)
    html = page(claims, rows, {})
    tags = re.findall(r'<tr data-class="([^"]*)"[^>]*>\s*<td><strong>([^<]*)</strong>: ([^,<]*)', html)
    mine = [(name, shown) for name, shown, text in tags if text == source.split(",")[0]]
    assert (evidence_class, evidence_class) in mine
    article = html.split(f'<article id="{claim_id}">')[1].split("</article>")[0]
    mark = re.search(rf'<li class="mark ([a-z-]+)" data-class="{evidence_class}"', article)
    assert mark and mark[1] != "none"


def test_a_planted_number_is_named_with_its_class_in_the_summary(planted):
    sources, rows = planted
    claims = {claim["id"]: claim for claim in sources.facts.table("claims")}
    texts = {name: summary(claims[name], [row for row in rows if row["id"] == name]) for name in ("C24", "C27", "C38")}
    assert "Measured by others: its speed part holds on 1 of 1 setting (RTX 3090)." in texts["C24"]
    assert "re-evaluated by others, meet it in 4 of 5 evaluations by 4 sources" in texts["C27"]
    assert f"Small study {STUDY}: not resolved." in texts["C38"]
    assert "Retrainings by others leave it open (2 sources)" in texts["C27"]


def test_a_summary_counts_each_class_of_speeds_by_itself(committed_rows):
    rows = [row for row in committed_rows if row["id"] == "C20"]
    (claim,) = [claim for claim in CLAIMS if claim["id"] == "C20"]
    text = summary(claim, rows)
    for name in ("measured here", "measured by others"):
        verdicts = [row["verdict_number"] for row in rows if row["evidence_class"] == name and row["part"] != "no part"]
        assert (
            f"{name.capitalize()}: its speed part holds on {verdicts.count('met')} of {len(verdicts)} settings" in text
        )


def test_a_summary_tells_that_a_source_has_some_of_the_speeds_only(committed_rows):
    claims = {claim["id"]: claim for claim in CLAIMS}
    for name, partly in (("C31", True), ("C32", True), ("C05", False)):
        text = summary(claims[name], [row for row in committed_rows if row["id"] == name])
        assert ("its speed part, as far as measured, holds on" in text.split("Measured by others: ")[1]) is partly


def test_a_row_differs_only_by_the_rows_that_it_rests_on(committed_rows):
    """EfficientNet-B0 ran with another batch there, but has no part in the ranking by Wino MULs."""
    rows = [row for row in committed_rows if row["id"] == "C32" and "pro6000maxq-dynamo" in row["source"]]
    assert rows and all("batch 2048 instead of 128" in row["differs"] for row in rows)


def test_a_claim_of_unknown_kind_names_file_and_line():
    claims = [dict(claim) for claim in CLAIMS]
    claims[3]["kind"] = None
    with pytest.raises(CompanionError, match=r"paper/claims.csv line 5: claim C04 has no kind; use one of"):
        require_claims(claims, "paper/claims.csv")
    claims[3] = claims[2]
    with pytest.raises(CompanionError, match=r"line 5: claim C03 is already on line 4"):
        require_claims(claims, "paper/claims.csv")


def test_a_claim_that_no_class_can_decide_names_file_and_line(committed_rows):
    without = [row for row in committed_rows if row["id"] != "C35"]
    with pytest.raises(CompanionError, match=r"paper/claims.csv line 36: claim C35 has evidence of no class"):
        require_evidence(CLAIMS, without, "paper/claims.csv")


def replaced(path, old, new):
    """Change a text in a file, once; it must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("check(plain-inference-body)", "check(no-such)", "line 7: claim C06: the check 'no-such' does not exist"),
        ("top1(VGG-16) > 72", "top1(vgg-16) > 72", "line 17: claim C16: there is no model 'vgg-16'"),
        ("top1(VGG-16) > 72", "top1(VGG-16) >> 72", "line 17: claim C16: the condition"),
        (",0.05,0.25,+1.25; 33%", ",five,0.25,+1.25; 33%", "line 21: claim C20: tolerance_released 'five'"),
        ("id,where_in_paper", "id,where", "line 1: the column 'where_in_paper' is missing"),
        ("C16,3.2,", "C16,3.2", "line 17: it has 12 cells instead of 13"),
        ("C16,3.2,VGG-16 with BN reaches over 72% top-1,value,", "C16,3.2,VGG-16 with BN,measured,", "unknown kind"),
    ],
)
def test_a_claim_that_cannot_be_used_names_file_and_line(copy, old, new, words):
    replaced(copy / "paper" / "claims.csv", old, new)
    with pytest.raises(CompanionError) as caught:
        sources_of(copy)
    assert "claims.csv line " in str(caught.value) and words in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        ("kernel_size", "device", "rtx-9999", "line 2: the device rtx-9999 is not that of the folder"),
        ("kernel_size", "precision", "FP32", "line 2: precision 'FP32' is not known"),
        ("kernel_size", "tflops", "nan", "tflops is nan, which is not a finite number"),
        ("memory", "model", "repvgg-a0", "line 2: there is no model 'repvgg-a0'"),
        ("memory", "device", "other", "line 2: the device other is not"),
        ("speed", "backend", "magic", "line 2: backend 'magic' is not known"),
        ("speed", "protocol", "mine", "line 2: protocol 'mine' is not known"),
        ("speed", "examples_per_s", "inf", "examples_per_s is inf"),
    ],
)
def test_a_cell_of_a_device_that_is_not_known_names_file_and_line(copy, table, column, value, words):
    path = device_of(copy) / f"{table}.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[0][column] = value
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(CompanionError) as caught:
        check_device_folders(copy / "results" / "devices")
    assert words in str(caught.value) and f"{table}.csv" in str(caught.value), caught.value


def test_hidden_folders_are_no_devices(copy):
    (copy / "results" / "devices" / ".ipynb_checkpoints").mkdir()
    assert len(check_device_folders(copy / "results" / "devices")) >= 1


def test_each_device_has_its_own_row_for_memory_and_batch_size(planted):
    """The rows of two devices are never joined into one."""
    _, rows = planted
    maps = [row for row in rows if (row["id"], row["evidence_class"]) == ("C14", "measured here")]
    assert len({row["device"] for row in maps}) == len(maps) >= 2
    (saturated,) = [row for row in rows if row["id"] == "C34"]
    assert (saturated["device"], saturated["setting"]) == (DEVICE, "fp32, batch 128 and 256")
    assert saturated["verdict_number"] == "met" and saturated["evidence"].count("RepVGG-A0") == 2


def device_of(root):
    return next(path for path in (root / "results" / "devices").iterdir() if (path / "kernel_size.csv").exists())


def test_a_device_folder_without_rows_is_refused(copy):
    folder = copy / "results" / "devices" / "gpu-empty"
    folder.mkdir()
    with pytest.raises(CompanionError, match=r"gpu-empty/speed.csv does not exist"):
        sources_of(copy)


def test_a_device_row_without_samples_names_file_and_line(copy):
    for path in device_of(copy).glob("speed/*/*.parquet"):
        path.unlink()
    with pytest.raises(CompanionError, match=r"speed.csv line 2: .*parquet is missing"):
        check_device_folders(copy / "results" / "devices")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("EfficientNet-B0", "EfficientNet-B9", "EfficientNet-B9"),
        ("cpu-intel", "cpu-other", "is not that of the folder"),
    ],
)
def test_a_device_row_of_another_network_or_device_names_file_and_line(copy, old, new, words):
    path = device_of(copy) / "speed.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[1] = lines[1].replace(old, new)
    path.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(CompanionError, match=words) as caught:
        check_device_folders(copy / "results" / "devices")
    assert re.search(r"speed.csv:? (line|row) \d", str(caught.value))


def test_a_device_row_that_appears_twice_is_refused(copy):
    path = device_of(copy) / "speed.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[1], *lines[2:]]), encoding="utf-8")
    with pytest.raises(CompanionError, match=r"speed.csv:? (line|row) \d"):
        check_device_folders(copy / "results" / "devices")


def test_a_study_without_rows_or_with_the_papers_images_is_refused(planted, copy):
    sources, _ = planted
    study = copy / "results" / "studies" / "mine"
    study.mkdir(parents=True)
    with pytest.raises(CompanionError, match=r"mine/accuracy.csv has no rows of the deploy form"):
        sources_of(copy)
    text = (sources.studies[0].results.folder / "accuracy.csv").read_text(encoding="utf-8")
    (study / "accuracy.csv").write_text(text.replace("other-images", "imagenet"), encoding="utf-8")
    with pytest.raises(
        CompanionError, match=r"mine/accuracy.csv line 2: RepVGG-B0 has dataset imagenet; a study has one"
    ):
        sources_of(copy)
