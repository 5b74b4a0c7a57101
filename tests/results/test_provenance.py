"""What the report says about the commits behind its rows."""

import pytest

from repvgg_companion.contract import write_rows
from repvgg_companion.results.provenance import commits_in_words
from repvgg_companion.results.report import _measured, _warnings

OLD, NEW = "a" * 40, "b" * 40


def record(**changes):
    weights = {form + seed: {"training_digest": "d", "seed": seed, "form": form, "training_commits": [OLD]}
               for form in ("train", "deploy") for seed in "01"}  # fmt: skip
    runs = {"one": {"commit": OLD}, "two": {"commit": NEW}, "three": {"commit": NEW}}
    return {"commit": NEW, "runs": runs, "weights": weights, "dataset": {"dataset": "imagenet"}} | changes


def test_rows_that_are_older_than_the_page_are_told_with_their_commits():
    assert commits_in_words(record()) == (
        f"measured at {NEW} (2 runs), {OLD} (1 run) and trained at {OLD} (2 trainings)"
    )
    assert commits_in_words(record(weights={"x": {"training_digest": "released", "seed": None}}, runs={})) == (
        "not measured"
    )


def test_the_warning_counts_the_disturbed_rows_as_claims_md_does():
    claims = [
        {"id": f"C{n}", "verdict_number": verdict, "flags": "busy 9 %"}
        for n, verdict in enumerate(("open", "not tested"))
    ]
    ((heading, words),) = _warnings(record(), [*claims, {"id": "C3", "verdict_number": "met", "flags": None}], "x")
    assert heading == "Disturbed speeds." and words.startswith(
        "2 of 3 rows of claims rest on speeds that were disturbed"
    )


@pytest.mark.parametrize("commit", [f"{OLD}-dirty", "unknown (git is not installed)"])
def test_an_unclear_commit_of_a_run_is_a_warning_too(commit):
    assert not list(_warnings(record(), [], "x"))
    ((heading, words),) = _warnings(record(runs={"one": {"commit": commit}}), [], "x")
    assert heading == "No clean commit." and words.endswith(f"cannot be named by a commit: {commit}.")


def test_the_report_counts_the_trained_networks(tmp_path):
    """The counts of an own network are there, those of the paper's networks that were not trained are not."""
    own = "RepVGG-1.2.3.4.1-a0.75-b2"
    shared = {"experiment": "mine", "variation": "", "width": 1.0, "num_classes": 10, "run_id": "r", "form": "deploy"}
    counts = [
        {**shared, "model": model, "base_model": model, "params": 123, "flops": flops, "input_px": 32}
        for model, flops in ((own, 456), ("RepVGG-A0", 789))
    ]
    write_rows(tmp_path / "complexity.csv", "complexity", counts)
    assert list(_measured(tmp_path)) == []
    measured = {"dataset": "mine", "recipe": "short", "training_digest": "0" * 8, "seed": "0", "form": "deploy"}
    accuracy = {"protocol": "p", "input_px": 32, "n_images": 9, "weights_sha256": "0" * 64}
    percent = {"top1_low_pct": 1.0, "top1_pct": 2.0, "top1_high_pct": 3.0, "top5_pct": 4.0}
    row = {**shared, "model": own, "base_model": own, **measured, **accuracy, **percent}
    write_rows(tmp_path / "accuracy.csv", "accuracy", [row])
    _, (key, heading, table, _) = _measured(tmp_path)
    assert (key, heading) == ("complexity", "Parameters and FLOPs")
    assert own in table and "456" in table and "RepVGG-A0" not in table and "789" not in table
