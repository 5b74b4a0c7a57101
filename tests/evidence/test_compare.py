"""Two folders of results side by side: differences and ratios only where they mean something."""

import csv
import shutil

import numpy as np
import pytest
from paper_synthetic import PAPER, accuracy_row, network, speed_row, write_predictions
from scipy import stats

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.evidence.accuracy_lines import TOP1, accuracy_lines
from repvgg_companion.evidence.compare import compared, markdown
from repvgg_companion.evidence.compared_line import Measured, read_side
from repvgg_companion.evidence.speed_lines import ratio_lines, speed_lines
from repvgg_companion.files import write_json
from repvgg_companion.paper.inference import over_images

IMAGES = 2_000
A0, R18 = "RepVGG-A0", "ResNet-18"


def _accuracy(correct: np.ndarray, model: str = A0, seed: str = "0", **more) -> dict:
    top1 = 100 * float(correct.mean())
    row = accuracy_row(model, top1, recipe="120-epochs", digest="12345678", seed=seed, n_images=len(correct))
    return row | {"top1_low_pct": top1 - 2, "top1_high_pct": top1 + 2} | more


def _images(wrong: range) -> np.ndarray:
    correct = np.ones(IMAGES, bool)
    correct[list(wrong)] = False
    return correct


def _write(folder, accuracies=(), speeds=(), predictions=()):
    if accuracies:
        write_rows(folder / "accuracy.csv", "accuracy", accuracies)
    if speeds:
        write_rows(folder / "speed.csv", "speed", speeds)
    for row, correct in zip(accuracies, predictions, strict=False):
        write_predictions(folder / "predictions", row, correct)
    return read_side(folder)


def _sides(tmp_path, first: dict, second: dict):
    return _write(tmp_path / "one", **first), _write(tmp_path / "two", **second)


def test_the_same_images_are_compared_in_pairs(tmp_path):
    parts = [_images(range(500)), _images(range(440))]  # the second network corrects 60 images and loses none
    sides = _sides(tmp_path, *({"accuracies": [_accuracy(correct)], "predictions": [correct]} for correct in parts))
    (line,) = accuracy_lines(*sides)
    assert line.change.value == pytest.approx(3.0)
    assert line.method == "difference, paired over the same images"
    assert 2.2 < line.change.low < 3.0 < line.change.high < 3.8
    assert "McNemar" in line.note


def test_no_discordant_pair_still_leaves_an_interval(tmp_path):
    """Tango 1998: without a discordant pair the score interval is z^2 / (n + z^2) to both sides."""
    correct = _images(range(500))
    rows = [_accuracy(correct) | {"weights_sha256": digit * 64} for digit in "12"]
    sides = _sides(tmp_path, *({"accuracies": [row], "predictions": [correct]} for row in rows))
    (line,) = accuracy_lines(*sides)
    bound = 100 * 1.959964**2 / (IMAGES + 1.959964**2)
    assert (line.change.low, line.change.value, line.change.high) == pytest.approx((-bound, 0, bound), rel=1e-6)
    assert "McNemar p 1" in line.note


def test_a_network_does_not_differ_from_itself(tmp_path):
    rows = [_accuracy(_images(range(500)))] * 2
    (line,) = accuracy_lines(*_sides(tmp_path, *({"accuracies": [row]} for row in rows)))
    assert (line.change.low, line.change.high) == (0, 0)
    assert line.method == "difference of a network from itself" and line.note == "the same weights"


def test_images_that_all_agree_bound_any_combination():
    """With every answer right, new images may only be worse: Wilson's interval for n of n."""
    from repvgg_companion.evaluation.accuracy import wilson_interval_pct

    span = over_images([1.0], [np.ones(80)])
    assert (span.low, span.high) == pytest.approx(wilson_interval_pct(80, 80))
    halves = over_images([0.5, 0.5, -1.0], [np.ones(80)] * 3)
    assert -halves.low == halves.high == pytest.approx(100 - span.low)


def test_without_predictions_the_images_count_as_independent(tmp_path):
    parts = [_images(range(500)), _images(range(440))]
    sides = _sides(tmp_path, *({"accuracies": [_accuracy(correct)]} for correct in parts))
    (line,) = accuracy_lines(*sides)
    assert line.method == "difference, independent images (Newcombe)"
    assert (line.change.low, line.change.high) == pytest.approx((3 - 8**0.5, 3 + 8**0.5))
    assert "predictions per image of RepVGG-A0 are missing" in line.note


def test_newcombe_agrees_with_its_published_example(tmp_path):
    """Newcombe 1998, table II, row a: 56/70 less 48/80 is 0.20 with the interval 0.0524 to 0.3339."""
    from repvgg_companion.evaluation.accuracy import wilson_interval_pct

    def row(correct: int, total: int) -> dict:
        low, high = wilson_interval_pct(correct, total)
        values = np.arange(total) < correct
        return _accuracy(values) | {"top1_low_pct": low, "top1_high_pct": high}

    sides = _sides(tmp_path, {"accuracies": [row(48, 80)]}, {"accuracies": [row(56, 70)]})
    (line,) = accuracy_lines(*sides)
    assert (line.change.low, line.change.high) == pytest.approx((5.24, 33.39), abs=0.005)


def test_three_seeds_on_both_sides_add_an_interval_over_seeds(tmp_path):
    first = [_accuracy(_images(range(500 + shift)), seed=str(shift)) for shift in range(3)]
    second = [_accuracy(_images(range(400 + shift)), seed=str(shift)) for shift in range(3)]
    lines = list(accuracy_lines(*_sides(tmp_path, {"accuracies": first}, {"accuracies": second})))
    assert [line.method for line in lines][1] == "difference, over training seeds (Welch)"
    assert lines[1].change.value == pytest.approx(5.0)
    assert lines[1].change.high - lines[1].change.low < 0.3
    assert "3 and 3 seeds" in lines[1].note


@pytest.mark.parametrize(
    "other", [{"dataset": "demo-digits"}, {"width": 0.25}, {"num_classes": 10}, {"protocol": "resize232-crop224"}]
)
def test_other_images_networks_or_protocols_are_not_compared(tmp_path, other):
    correct = _images(range(500))
    sides = _sides(tmp_path, {"accuracies": [_accuracy(correct)]}, {"accuracies": [_accuracy(correct) | other]})
    (line,) = accuracy_lines(*sides)
    assert line.change.value is None
    assert line.note.startswith("not compared: other images, network or protocol (")
    assert str(next(iter(other.values()))) in line.note
    page = markdown([line], *sides)
    assert f"\n{line.subject}: {line.note}.\n" in page and "|" not in page, "a sentence, no table"


def test_speeds_of_two_runs_stand_side_by_side_without_a_ratio(tmp_path):
    first = speed_row(A0, "deploy", 100.0)
    second = speed_row(A0, "deploy", 120.0, run_id="20260302T120000Z-measure-speed-bbbbbb", device="gtx-9000")
    (line,) = speed_lines(*_sides(tmp_path, {"speeds": [first]}, {"speeds": [second]}))
    assert (line.first.value, line.second.value) == (100.0, 120.0)
    assert line.change.value is None
    assert line.note == "no ratio: different devices (gtx-1080ti and gtx-9000)"


def test_what_all_notes_begin_with_stands_below_the_table_once(tmp_path):
    names = (A0, R18, "RepVGG-A1")
    one, two = ([speed_row(name, "deploy", 100.0) | {"run_id": f"20260302T120000Z-measure-speed-{letter * 6}"}
                 for name in names] for letter in "ab")  # fmt: skip
    two[0]["flags"] = "drift +9 %"
    sides = _sides(tmp_path, {"speeds": one}, {"speeds": two})
    page = markdown(list(speed_lines(*sides)), *sides)
    assert page.count("no ratio: different runs") == 1 and "\nEvery line: no ratio: different runs" in page
    assert page.count("| B is flagged: drift +9 % |") == 1 and page.count("|  |  |\n") == 2


def test_speeds_of_another_setting_are_no_line(tmp_path):
    first, second = speed_row(A0, "deploy", 100.0), speed_row(A0, "deploy", 100.0, precision="bf16")
    assert list(speed_lines(*_sides(tmp_path, {"speeds": [first]}, {"speeds": [second]}))) == []


def test_each_side_keeps_the_ratio_of_its_own_run(tmp_path, facts):
    other = {"run_id": "20260302T120000Z-measure-speed-bbbbbb", "device": "gtx-9000"}
    first = [speed_row(A0, "deploy", 133.0), speed_row(R18, "deploy", 100.0)]
    second = [speed_row(A0, "deploy", 900.0, **other), speed_row(R18, "deploy", 1000.0, **other)]
    lines = list(ratio_lines(*_sides(tmp_path, {"speeds": first}, {"speeds": second}), facts))
    line = next(line for line in lines if line.subject == "RepVGG-A0 / ResNet-18")
    assert line.first.value == pytest.approx(1.33)
    assert line.second.value == pytest.approx(0.9)
    assert "do not overlap" in line.note


def test_a_pair_measured_in_two_runs_has_no_ratio(tmp_path, facts):
    first = [speed_row(A0, "deploy", 133.0), speed_row(R18, "deploy", 100.0)]
    second = [first[0], first[1] | {"run_id": "20260302T120000Z-measure-speed-bbbbbb"}]
    assert list(ratio_lines(*_sides(tmp_path, {"speeds": first}, {"speeds": second}), facts)) == []


def test_claims_whose_verdict_differs_and_no_others(tmp_path, facts):
    def claim(identifier: str, verdict: str) -> dict:
        return {
            "id": identifier, "claim": "a claim", "kind": "order", "condition": "flops(RepVGG-A0) > 0",
            "verdict_number": verdict, "verdict_inference": "inconclusive", "reason": "planted", "our_value": "7",
        }  # fmt: skip

    folders = []
    for name, verdict in (("one", "met"), ("two", "not met")):
        folders.append(tmp_path / name)
        rows = [claim("C01", "met"), claim("C02", verdict)]
        write_rows(folders[-1] / "claims.csv", "claims", rows, keep_order=True)
    (line,) = compared(*map(read_side, folders), facts)
    assert line.subject.startswith("C02 ")
    assert line.texts == ("met / inconclusive", "not met / inconclusive")


def _memory(model: str, layer: str, live: float | None, peak: float | None, device: str = "gtx-1080ti") -> dict:
    return {**network(model), "run_id": "r", "form": "deploy", "device": device, "layer": layer, "batch_size": 8,
            "input_px": 224, "live_feature_map_mib": live, "peak_mib": peak}  # fmt: skip


def test_memory_that_differs_is_listed(tmp_path, facts):
    first = [_memory(A0, "whole-network", 6.0, 50.0), _memory(R18, "whole-network", 7.0, None)]
    second = [_memory(A0, "whole-network", 6.0, 62.5, "gtx-9000"), _memory(R18, "whole-network", 7.0, 80.0, "gtx-9000")]
    for name, rows in (("one", first), ("two", second), ("three", first)):
        write_rows(tmp_path / name / "memory.csv", "memory", rows)
    one, two, three = (read_side(tmp_path / name) for name in ("one", "two", "three"))
    (line,) = compared(one, two, facts)
    assert (line.section, line.quantity, line.change.value) == ("memory", "peak (MiB)", 12.5)
    page = markdown([line], one, two)
    assert "\n## Memory\n" in page
    assert ("| RepVGG-A0 deploy | whole-network, batch 8, 224 px | 50 | 62.5 | +12.50 | difference of peak (MiB); "
            "different devices (gtx-1080ti and gtx-9000) |") in page  # fmt: skip
    assert "no network has different values on the two sides at" in markdown(compared(one, three, facts), one, three)


def _run_folder(folder, **more):
    """An experiment's folder as its run leaves it; the run asked for two networks, memory and speeds."""
    asked = {
        "data": {"cityscapes_folder": None},
        "training": [{"models": [A0, "RepVGG-A1"], "recipe": "120-epochs", "width": 1.0, "seeds": [0]}],
        "released": None, "kernel_size": None, "segmentation_speed": None, "memory": {"models": [A0]},
        "speed": {"models": [A0], "baselines": [R18]},
    }  # fmt: skip
    (folder / "parts").mkdir(parents=True)
    write_json(folder / "experiment.json", asked | more)
    return folder


def test_an_unfinished_run_is_told_with_what_it_lacks(tmp_path, facts, capsys):
    correct = _images(range(500))
    one = _run_folder(tmp_path / "one")
    assert main(["compare", str(one), str(_made(tmp_path / "two")), "--paper", str(PAPER)]) == 2
    assert "its run is not finished; go on with it first" in capsys.readouterr().err
    _write(one, [_accuracy(correct)], [speed_row(A0, "deploy", 100.0)])
    _write(tmp_path / "two", [_accuracy(correct)])
    words = ["compare", str(tmp_path / "two"), str(one), "--paper", str(PAPER)]
    assert main(words) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "not finished" in line]
    assert told == (
        f"The run of B is not finished: {one} lacks memory.csv; complexity.csv; claims.csv; in accuracy.csv RepVGG-A1 "
        "(recipe 120-epochs, width 1, seed 0); in speed.csv ResNet-18. What is there is compared."
    )
    assert main([*words, "--output", str(tmp_path / "out.csv")]) == 0
    assert told in capsys.readouterr().err


def test_counts_that_differ_are_listed(tmp_path, facts):
    for name, flops in (("one", 7), ("two", 8)):
        row = {**network(A0), "run_id": "r", "form": "deploy", "params": 5, "flops": flops, "input_px": 224}
        write_rows(tmp_path / name / "complexity.csv", "complexity", [row])
    (line,) = compared(read_side(tmp_path / "one"), read_side(tmp_path / "two"), facts)
    assert (line.quantity, line.first.value, line.second.value) == ("flops", 7, 8)


def test_equal_counts_say_of_which_networks_they_are(tmp_path, facts):
    """Trainings at two widths share only the counts of the full-width network."""

    def count(width, classes):
        row = {"run_id": "r", "form": "deploy", "params": 5, "flops": 7, "input_px": 224}
        return {**network(A0), **row, "width": width, "num_classes": classes}

    def page(first, second):
        sides = []
        for name, rows in (("one", first), ("two", second)):
            write_rows(tmp_path / name / "complexity.csv", "complexity", rows)
            sides.append(read_side(tmp_path / name))
        return markdown(compared(*sides, facts), *sides)

    full = count(1.0, 1000)
    assert "Counts: those of the same networks agree (width 1, 1000 classes).\n" in page([full], [full])
    told = page([full, count(1.0, 10)], [full, count(0.25, 10)])
    assert "agree (width 1, 1000 classes). Only A has counts at width 1, 10 classes. Only B has counts at width" in told
    assert "Counts: no network was counted on both sides at the same" in page([full], [count(0.25, 10)])


def test_two_copies_of_a_committed_device_agree_in_everything(root, tmp_path):
    devices = [path for path in (root / "results" / "devices").iterdir() if path.is_dir()]
    device = max(devices, key=lambda path: (path / "speed.csv").stat().st_size)
    copy = tmp_path / device.name
    for part in ("speed.csv", "speed"):
        (shutil.copytree if (device / part).is_dir() else shutil.copy)(device / part, _made(copy) / part)
    later = [
        row | {"run_id": "20990101T000000Z-measure-speed-ffffff"} for row in read_rows(copy / "speed.csv", "speed")
    ]
    write_rows(copy / "speed.csv", "speed", later)
    sides = read_side(device), read_side(copy)
    lines = list(speed_lines(*sides))
    measured = [row for row in later if row["examples_per_s"] is not None]
    assert 50 < len(lines) <= len(measured)
    assert all(line.first == line.second and line.change.value is None for line in lines)
    assert all(line.note.startswith("no ratio: different runs, whose clocks") for line in lines)
    text = markdown(lines, *sides)
    assert "| RepVGG-A0 deploy | fp32, eager" in text


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_verb_writes_markdown_and_rows(tmp_path, capsys):
    correct = _images(range(500))
    for name in ("one", "two"):
        _write(tmp_path / name, [_accuracy(correct)], predictions=[correct])
    words = ["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--paper", str(PAPER)]
    assert main(words) == 0
    page = capsys.readouterr().out
    assert page.startswith("# one beside two\n")
    assert "+0.00 [+0.00, +0.00]" in page
    assert main([*words, "--output", str(tmp_path / "out.md")]) == 0
    assert (tmp_path / "out.md").read_text() == page
    assert main([*words, "--output", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["section"], row["a"], row["b"], row["change"]) == ("accuracy", "75.0", "75.0", "0.0")


def test_refusals_say_in_one_sentence_what_to_do(tmp_path, facts, capsys):
    correct = _images(range(500))
    _write(tmp_path / "one", [_accuracy(correct)])
    _write(tmp_path / "two", speeds=[speed_row(A0, "deploy", 100.0)])
    _write(tmp_path / "group" / "device-a", speeds=[speed_row(A0, "deploy", 100.0)])
    cases = {
        ("one", "two"): "hold no table in common",
        ("one", "one"): "are one folder; name two different ones",
        ("one", "missing"): "is not a folder; name results/EXPERIMENT",
        ("one", "group"): "holds no result tables such as speed.csv; name one of its folders: device-a",
    }
    for names, expected in cases.items():
        assert main(["compare", *(str(tmp_path / name) for name in names), "--paper", str(PAPER)]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--output", "x.txt"]) == 2
    assert "must end in .md or .csv" in capsys.readouterr().err


def test_a_disturbed_ratio_is_shown_but_not_compared(tmp_path, facts):
    other = {"run_id": "20260302T120000Z-measure-speed-bbbbbb", "device": "gtx-9000"}
    first = [speed_row(A0, "deploy", 133.0, flags="spread 40 %"), speed_row(R18, "deploy", 100.0)]
    second = [speed_row(A0, "deploy", 900.0, **other), speed_row(R18, "deploy", 1000.0, **other)]
    lines = list(ratio_lines(*_sides(tmp_path, {"speeds": first}, {"speeds": second}), facts))
    line = next(line for line in lines if line.subject == "RepVGG-A0 / ResNet-18")
    assert line.note == (
        "gtx-1080ti and gtx-9000; not compared: the measurement was disturbed (A: RepVGG-A0 deploy: spread 40 %)"
    )


def test_a_table_without_a_line_says_why(tmp_path, facts):
    """Both sides have speeds, of other batches; both judge the claim, and the verdicts say at which batch."""
    other = {"run_id": "20260302T120000Z-measure-speed-bbbbbb", "device": "gtx-9000", "batch_size": 8}
    first = [speed_row(A0, "deploy", 133.1), speed_row(R18, "deploy", 100.0)]
    second = [speed_row(A0, "deploy", 900.0, **other), speed_row(R18, "deploy", 1000.0, **other)]
    sides = _sides(tmp_path, {"speeds": first}, {"speeds": second})
    text = markdown(compared(*sides, facts), *sides)
    assert "Speed: no network was measured on both sides in the same precision" in text
    (claim,) = [line for line in text.splitlines() if line.startswith("| C20 ")]
    assert "A: batch 128, 1.331 [" in claim and "B: batch 8, 0.9 [" in claim
    assert "best of each" not in text


def test_a_mean_of_several_seeds_has_the_interval_over_the_seeds():
    rows = [{"top1_pct": value, "top1_low_pct": value - 5, "top1_high_pct": value + 5} for value in (10.0, 11.0, 12.0)]
    mean = TOP1.measured(rows)
    low, high = stats.t.interval(0.95, 2, 11.0, stats.sem([10.0, 11.0, 12.0]))
    assert (mean.value, mean.low, mean.high) == (11.0, pytest.approx(low), pytest.approx(high))
    assert TOP1.measured(rows[:1]) == Measured(10.0, 5.0, 15.0)
    assert TOP1.measured(rows[:2]) == Measured(10.5)
