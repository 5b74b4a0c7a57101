"""What a run says at its end when it failed: the sentences of the jobs, not Snakemake's noise."""

import pytest

from repvgg_companion.__main__ import main


def test_the_sentence_of_each_failed_job_stands_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index.log").write_text("index: note: no MD5\nindex: error: a.tar is truncated; get it again\n")
    (tmp_path / "train.log").write_text("Killed\n")
    block = "Error in rule {0}:\n    jobid: 4\n    log: {0}.log (check log file(s) for error details)\n    shell:\n"
    (tmp_path / "snakemake.log").write_text(block.format("index") * 2 + block.format("train") + block.format("gone"))
    assert main(["summary", "--results", "r", "--figures", "f", "--failed", "snakemake.log"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "failed: index: error: a.tar is truncated; get it again",
        "failed: see train.log",
        "failed: see gone.log",
    ]


STOPS = [
    "Terminating processes on user request, this might take some time.\n",
    "Will exit after finishing currently running jobs (scheduler).\n",
]


def test_under_make_which_tells_the_stop_only_failures_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPVGG_COMPANION_MAKE", "yes")
    (tmp_path / "index.log").write_text("index: error: a.tar is truncated; get it again\n")
    log = tmp_path / "snakemake.log"
    log.write_text(f"Error in rule index:\n    log: {tmp_path}/index.log (check log file(s) for details)\n{STOPS[0]}")
    assert main(["summary", "--results", "r", "--figures", "f", "--failed", str(log)]) == 0
    assert capsys.readouterr().err == "failed: index: error: a.tar is truncated; get it again\n"
    (tmp_path / "told").touch()
    monkeypatch.setenv("REPVGG_COMPANION_MAKE", str(tmp_path / "told"))
    assert main(["summary", "--results", "r", "--figures", "f", "--failed", str(log)]) == 0
    assert (tmp_path / "told").read_text() == "stopped", "make, which got no signal itself, reads it"


@pytest.mark.parametrize("stop", STOPS, ids=["Ctrl-C", "SIGTERM"])
def test_a_run_that_was_stopped_says_how_to_go_on_and_calls_no_job_failed(tmp_path, monkeypatch, capsys, stop):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text("train: stopped by SIGINT after step 38 of 9200; start again to continue\n")
    (tmp_path / "index.log").write_text("index: error: a.tar is truncated; get it again\n")
    block = "Error in rule {0}:\n    jobid: 4\n    log: {0}.log (check log file(s) for error details)\n    shell:\n"
    words = ["summary", "--results", "r", "--figures", "f", "--failed", "snakemake.log"]
    (tmp_path / "snakemake.log").write_text(stop + block.format("train"))
    assert main(words) == 0
    said = capsys.readouterr().err
    assert said.startswith("stopped; the same command continues") and "failed" not in said
    (tmp_path / "snakemake.log").write_text(block.format("index") + stop + block.format("train"))
    assert main(words) == 0
    assert capsys.readouterr().err.splitlines()[0] == "failed: index: error: a.tar is truncated; get it again"
