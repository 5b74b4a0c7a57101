"""The `summary` verb: after a run, say in a few lines what it found and where everything is, or what stopped it."""

import argparse
import os
import re
import sys
from pathlib import Path

from repvgg_companion.contract import read_rows
from repvgg_companion.results.report import claims_summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `summary` verb."""
    parser.add_argument("--results", required=True)
    parser.add_argument("--figures", required=True)
    parser.add_argument("--failed", metavar="LOG", help="Snakemake's log of a run that failed: say why instead")


MAKE_VARIABLE = "REPVGG_COMPANION_MAKE"
"""Set where `make` started the run, which says itself that it was stopped; if it names a file, the word goes there."""
STOPPED = ("Terminating processes on user request", "Will exit after finishing currently running jobs (scheduler)")
"""What Snakemake's log says after Ctrl-C, and after a SIGTERM that its own handler got."""


def failures(log: str) -> list[str]:
    """What stopped a run, one line for each failed job: the sentence in its log file, or where to look.

    `log` is the text of Snakemake's own log, which names the log files of the jobs that failed.
    """
    lines = []
    for path in dict.fromkeys(re.findall(r"^ +log: (.+?) \(check log file", log, re.MULTILINE)):
        try:
            said = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            said = ""
        lines.append((re.findall(r"^[a-z-]+: error: .*$", said, re.MULTILINE) or [f"see {path}"])[-1])
    return lines


def run(arguments: argparse.Namespace) -> None:
    """Print the summary to standard output; parts that were not asked for are left out."""
    if arguments.failed:
        log = Path(arguments.failed).read_text(encoding="utf-8", errors="replace")
        # A job that failed by itself before the stop is still named; one that was stopped says no error.
        stopped = any(words in log for words in STOPPED)
        for line in failures(log):
            if not (stopped and line.startswith("see ")):
                print(f"failed: {line}", file=sys.stderr)
        told = os.environ.get(MAKE_VARIABLE)
        if stopped and told is None:
            print("stopped; the same command continues: finished work is kept, trainings go on", file=sys.stderr)
        elif stopped and told and Path(told).is_file():
            Path(told).write_text("stopped", encoding="utf-8")
        return
    results, figures = Path(arguments.results), Path(arguments.figures)
    for table, column, name in (("accuracy", "top1_pct", "top-1"), ("segmentation", "mean_iou_pct", "mIoU")):
        if (results / f"{table}.csv").exists():
            rows = read_rows(results / f"{table}.csv", table)
            best = max(rows, key=lambda row: row[column])
            print(
                f"{table}: {len(rows)} rows on {best['dataset']} ({best['n_images']} images), best {best['model']} "
                f"(width {best['width']:g}, {best['form']}) {best[column]:.2f} % {name}"
            )
    if (results / "reparameterization.csv").exists():
        rows = read_rows(results / "reparameterization.csv", "reparameterization")
        print(f"certificates: {sum(row['passed'] for row in rows)} of {len(rows)} passed")
    if (results / "speed.csv").exists():
        rows = read_rows(results / "speed.csv", "speed")
        print(f"speed: {len(rows)} rows on {', '.join(sorted({row['device'] for row in rows}))}")
    if (results / "claims.csv").exists():
        print(f"claims: {claims_summary(read_rows(results / 'claims.csv', 'claims'))}")
    for what, path in (("report", results / "report.html"), ("tables", results / "tables"), ("figures", figures)):
        if path.exists():
            print(f"{what}: {path}")
