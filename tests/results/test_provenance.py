"""What the report says about the commits behind its rows."""

import pytest

from repvgg_companion.results.provenance import commits_in_words
from repvgg_companion.results.report import _warnings

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
