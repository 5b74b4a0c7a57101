"""What checkpoints cost on the demo, and what two training jobs side by side reach.

`python benchmarks/training_jobs.py [--models RepVGG-A0 RepVGG-B1 RepVGG-D2se] [--rounds 3]`, a good minute for the
smallest model, which is the default: real trainings by the verb, of the demo's digits at the demo's width and recipes.
The first table is whole trainings with and without its checkpoints, in turn; the second the sum of two jobs of one
thread each, against one alone.
"""

import argparse
import contextlib
import csv
import io
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from interleaved import measure, print_machine, print_table
from repvgg_companion.__main__ import main as verb
from repvgg_companion.experiment.load import read_experiment
from repvgg_companion.training.loop import Loop

ROOT = Path(__file__).resolve().parents[1]
STEPS, BATCH = 46, 32  # of an epoch of the demo: 1,501 images


def arguments_of(folder: Path, number: int, model: str) -> list[str]:
    """The words of the verb `train` for a model as the demo trains it, with a state of its own."""
    experiment = read_experiment(ROOT / "config" / "demo.yaml")
    entry = next(entry for entry in experiment.training if model in entry.models)
    place = folder / f"training-{number}"
    words = {
        "--dataset": "demo-digits",
        "--model": model,
        "--width": entry.width,
        "--recipe-name": entry.recipe,
        "--recipe": experiment.recipes[entry.recipe].to_json(),
        "--train-manifest": folder / "data" / "train.parquet",
        "--val-manifest": folder / "data" / "val.parquet",
        "--state": place / "state",
        "--output": place / "train.safetensors",
        "--history": place / "history.csv",
        "--device": "cpu",
    }
    return ["train", *(str(word) for pair in words.items() for word in pair)]


def digits(folder: Path) -> None:
    """The demo's images and manifests."""
    archives = ("--train-archive", "ILSVRC2012_img_train.tar", "--val-archive", "ILSVRC2012_img_val.tar")
    words = [word if word.startswith("--") else str(folder / word) for word in archives]
    words += ["--devkit", str(folder / "ILSVRC2012_devkit_t12.tar.gz"), "--output", str(folder / "data")]
    if verb(["make-demo-data", "--output", str(folder)]) or verb(["index", "--dataset", "demo-digits", *words]):
        raise SystemExit("the demo's images could not be made")


def images_of(words: list[str]) -> tuple[int, float]:
    """Images that a finished training took steps with, and its images per second in all epochs but the first."""
    with Path(words[words.index("--history") + 1]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rates = [float(row["images_per_s"]) for row in rows]
    return len(rows) * STEPS * BATCH, len(rates[1:]) / sum(1 / rate for rate in rates[1:])


def checkpoints(folder: Path, model: str, numbers, rounds: int) -> None:
    """Print whole trainings with and without checkpoints, in this process and in turn."""

    def train(*, keep: bool) -> int:
        words = arguments_of(folder, next(numbers), model)
        without = contextlib.nullcontext() if keep else mock.patch.object(Loop, "checkpoint", lambda self: None)
        with without, contextlib.redirect_stderr(io.StringIO()) as said:
            if verb(words):
                raise SystemExit(said.getvalue())
        return images_of(words)[0]

    rates = measure({"without": lambda: train(keep=False), "with": lambda: train(keep=True)}, rounds=rounds)
    print_table(f"Checkpoints, {model}", rates, peer="without")


def side_by_side(folder: Path, model: str, numbers, rounds: int) -> None:
    """Print images per second of one job, and of two at once."""
    alone, both = [], []
    for _ in range(rounds):
        for count, found in ((1, alone), (2, both)):
            orders = [arguments_of(folder, next(numbers), model) for _ in range(count)]
            jobs = [
                subprocess.Popen([sys.executable, "-m", "repvgg_companion", *words], stderr=subprocess.DEVNULL)
                for words in orders
            ]
            if any([job.wait() for job in jobs]):
                raise SystemExit("a training failed")
            found.append(sum(images_of(words)[1] for words in orders))
    print_table(f"Side by side, {model}", {"one job": alone, "two jobs": both}, peer="one job")


def main() -> None:
    """Print both tables for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["RepVGG-A0"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("checkpoints", "side-by-side"))
    arguments = parser.parse_args()
    print_machine("torch")
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits(folder)
        for model in arguments.models:
            if arguments.only != "side-by-side":
                checkpoints(folder, model, numbers, arguments.rounds)
            if arguments.only != "checkpoints":
                side_by_side(folder, model, numbers, arguments.rounds)


if __name__ == "__main__":
    main()
