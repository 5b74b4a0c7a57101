"""The strict readers of third-party evidence: the committed files, and one sentence for each kind of bad row."""

import csv
import shutil
from pathlib import Path

import pytest

from repvgg_companion.complexity.count_complexity import count_model
from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.third_party import (
    ACCURACY_FILE,
    OTHER_BASELINE,
    REEVALUATED,
    RETRAINED,
    SPEED_FILE,
    TIMM_FILE,
    read_accuracies,
    read_speeds,
)
from repvgg_companion.paper.printed import FILES

PAPER = Path(__file__).parents[2] / "paper"


@pytest.fixture
def copy(tmp_path):
    for name in (SPEED_FILE, ACCURACY_FILE, TIMM_FILE, *FILES.values()):
        shutil.copy(PAPER / name, tmp_path / name)
    return tmp_path


def change(path: Path, line: int, column: str, value: str) -> None:
    """Write `value` into one cell; `line` is the line of the file, 1 for the header's names."""
    rows = list(csv.reader(path.open(encoding="utf-8", newline="")))
    rows[line - 1][rows[0].index(column)] = value
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def test_every_published_row_is_read():
    speeds, accuracies = read_speeds(PAPER), read_accuracies(PAPER)
    assert len(speeds) == 472 and len({row.source_file for row in speeds}) == 20
    assert len({row.device for row in speeds}) == 6
    kinds = [row.kind for row in accuracies]
    assert (kinds.count(REEVALUATED), kinds.count(RETRAINED), kinds.count(OTHER_BASELINE)) == (47, 18, 13)
    assert sum(row.by_authors for row in accuracies) == 2


def test_the_file_is_sorted_and_has_unix_line_ends():
    text = (PAPER / SPEED_FILE).read_bytes()
    assert b"\r" not in text and text.endswith(b"\n")
    keys = [(row.source_file, row.model, row.input_px) for row in read_speeds(PAPER)]
    assert keys == sorted(keys)


def test_the_parameter_count_says_which_form_was_timed():
    published = {(row.model, row.form, row.params_m) for row in read_speeds(PAPER) if row.form != "as built"}
    assert len(published) == 22
    for model, form, params_m in published:
        assert abs(count_model(model, form=form).params / 1e6 - params_m) < 0.02, (model, form)


@pytest.mark.parametrize(
    ("file", "column", "value", "words"),
    [
        (SPEED_FILE, "model", "RepVGG-A9", "no model 'RepVGG-A9'"),
        (SPEED_FILE, "device", "gtx1080", "device 'gtx1080' is not known"),
        (SPEED_FILE, "form", "converted", "form 'converted' is not known"),
        (SPEED_FILE, "form", "train", "cannot have the form 'train'"),
        (SPEED_FILE, "images_per_s", "fast", "images_per_s 'fast'"),
        (SPEED_FILE, "images_per_s", "-3", "images_per_s '-3'"),
        (SPEED_FILE, "batch_size", "1.5", "batch_size '1.5'"),
        (ACCURACY_FILE, "model", "RepVGG-A9", "no model 'RepVGG-A9'"),
        (ACCURACY_FILE, "kind", "guessed", "kind 'guessed' is not known"),
        (ACCURACY_FILE, "top1_pct", "0.7241", "not a percentage"),
        (ACCURACY_FILE, "recipe", "90-epochs", "recipe '90-epochs' is not known"),
        (ACCURACY_FILE, "n_images", "many", "n_images 'many'"),
        (TIMM_FILE, "model", "ResNet-19", "no model 'ResNet-19'"),
        (TIMM_FILE, "kind", "", "kind '' is not known"),
        (SPEED_FILE, "model", "efficientnet-b0", "no model 'efficientnet-b0'"),
        (SPEED_FILE, "device", "RTX3090", "device 'RTX3090' is not known"),
        (SPEED_FILE, "precision", "FP16", "precision 'FP16' is not known"),
        (SPEED_FILE, "images_per_s", "nan", "images_per_s 'nan'"),
        (SPEED_FILE, "images_per_s", "inf", "images_per_s 'inf'"),
        (SPEED_FILE, "images_per_s", "1_000", "images_per_s '1_000'"),
        (SPEED_FILE, "images_per_s", "", "images_per_s ''"),
        (SPEED_FILE, "torch", "", "torch is empty"),
        (ACCURACY_FILE, "source", " ", "source is empty"),
        (ACCURACY_FILE, "top1_pct", "NaN", "top1_pct 'NaN'"),
        (ACCURACY_FILE, "n_images", "5000000", "n_images 5000000 is more than"),
        (ACCURACY_FILE, "kind", "Official weights, re-evaluated", "is not known"),
        (ACCURACY_FILE, "model", "ResNet-50", "released no weights of ResNet-50"),
    ],
)
def test_a_bad_cell_names_its_file_and_line(copy, file, column, value, words):
    change(copy / file, 2, column, value)
    with pytest.raises(CompanionError) as caught:
        (read_speeds if file == SPEED_FILE else read_accuracies)(copy)
    assert f"{file} line 2: " in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", [SPEED_FILE, ACCURACY_FILE, TIMM_FILE])
def test_a_row_that_appears_twice_names_both_lines(copy, file):
    lines = (copy / file).read_text(encoding="utf-8").splitlines(keepends=True)
    (copy / file).write_text("".join([*lines, lines[4]]), encoding="utf-8")
    with pytest.raises(CompanionError, match=rf"{file} line {len(lines) + 1}: .*already on line 5"):
        (read_speeds if file == SPEED_FILE else read_accuracies)(copy)


@pytest.mark.parametrize(
    ("file", "column", "other"), [(SPEED_FILE, "images_per_s", "images_per_min"), (TIMM_FILE, "top1_pct", "top1")]
)
def test_another_unit_is_refused(copy, file, column, other):
    change(copy / file, 1, column, other)
    with pytest.raises(CompanionError, match=rf"{file} line 1: column or unit '{other}'"):
        (read_speeds if file == SPEED_FILE else read_accuracies)(copy)


def test_a_short_row_is_refused(copy):
    path = copy / ACCURACY_FILE
    path.write_text(path.read_text(encoding="utf-8") + "RepVGG-A0,somewhere\n", encoding="utf-8")
    with pytest.raises(CompanionError, match="line 56: it has 2 cells instead of 10"):
        read_accuracies(copy)


def test_a_train_form_cannot_pass_as_converted(copy):
    """Else the weaker class of row would decide claims about the converted network."""
    rows = list(csv.DictReader((copy / SPEED_FILE).open(encoding="utf-8", newline="")))
    line = next(number for number, row in enumerate(rows, start=2) if row["form"] == "train")
    change(copy / SPEED_FILE, line, "form", "deploy")
    with pytest.raises(CompanionError, match=rf"{SPEED_FILE} line {line}: form is 'deploy', but RepVGG-"):
        read_speeds(copy)


@pytest.mark.parametrize("column", ["device", "precision", "backend", "torch", "published", "memory_format"])
def test_rows_of_one_published_file_share_their_setting(copy, column):
    known = {"device": "5090", "precision": "fp32", "backend": "compile", "memory_format": "channels_last"}
    change(copy / SPEED_FILE, 3, column, known.get(column, "other"))
    with pytest.raises(CompanionError, match=rf"{SPEED_FILE} line 3: {column} .* that line 2 has for the same"):
        read_speeds(copy)


def test_one_source_has_one_accuracy_of_a_network(copy):
    path = copy / ACCURACY_FILE
    text = path.read_text(encoding="utf-8")
    again = text.splitlines()[1].replace("official weights, re", "official RepVGG weights, re")
    path.write_text(f"{text}{again}\n", encoding="utf-8")
    with pytest.raises(CompanionError, match=r"line 56: mmpretrain .* has RepVGG-A0 at 224 px already on line 2"):
        read_accuracies(copy)


@pytest.mark.parametrize("file", [SPEED_FILE, ACCURACY_FILE, TIMM_FILE])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", "line 1: the file is empty"),
        (lambda content: b"\n".join(content.split(b"\n")[:2]).rpartition(b",")[0], "is it cut off"),
        (lambda content: content.replace(b"\n", b"\xe9\n", 1), "line 1: it is not UTF-8"),
        (lambda content: content.replace(b"model,", b"model,model,", 1), "line 1: the column 'model' is there twice"),
    ],
)
def test_a_damaged_file_names_its_line(copy, file, damage, words):
    (copy / file).write_bytes(damage((copy / file).read_bytes()))
    with pytest.raises(CompanionError) as caught:
        (read_speeds if file == SPEED_FILE else read_accuracies)(copy)
    assert file in str(caught.value) and words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", [SPEED_FILE, ACCURACY_FILE])
def test_windows_line_ends_a_byte_order_mark_and_empty_lines_change_nothing(copy, file):
    read = read_speeds if file == SPEED_FILE else read_accuracies
    before = read(copy)
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n")
    assert read(copy) == before
