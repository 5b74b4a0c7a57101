"""A real, small training: digits in the ImageNet archive layout, indexed by the verb, trained by the verb."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from training_environment import clean_environment

from repvgg_companion.__main__ import main

ROOT = Path(__file__).resolve().parents[2]

RECIPE = {
    "epochs": 2,
    "global_batch_size": 32,
    "batch_norm_batch_size": 32,
    "learning_rate": 0.02,
    "warmup_epochs": 0.5,
    "augmentation": "shift",
    "input_px": 16,
    "validation": "resize16-crop16-bilinear-pillow",
    "decoder": "pillow",
    "precision": "fp32",
    "memory_format": "channels_last",
    "threads": 1,
}


@dataclass
class Trainings:
    """Commands of trainings on one small dataset below one folder."""

    data: Path
    folder: Path

    def arguments(
        self, name: str, *options: object, model: str = "RepVGG-A0", recipe: dict | None = None, seed: int = 0
    ) -> list[str]:
        """The verb's arguments for the training called `name`, which has a state and outputs of its own."""
        base = {
            "--experiment": "test",
            "--dataset": "small-digits",
            "--model": model,
            "--width": 0.0625,
            "--recipe-name": "test",
            "--recipe": json.dumps({**RECIPE, **(recipe or {})}),
            "--seed": seed,
            "--train-manifest": self.data / "train.parquet",
            "--val-manifest": self.data / "val.parquet",
            "--state": self.state(name),
            "--output": self.weights(name),
            "--history": self.history(name),
            "--device": "cpu",
        }
        return ["train", *(str(word) for pair in base.items() for word in pair), *map(str, options)]

    def state(self, name: str) -> Path:
        return self.folder / "state" / name

    def weights(self, name: str) -> Path:
        return self.folder / "weights" / name / "train.safetensors"

    def history(self, name: str) -> Path:
        return self.folder / "weights" / name / "history.csv"

    def attempts(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.state(name) / "attempts.jsonl").read_text().splitlines()]

    def start(self, name: str, *options: object, **settings) -> subprocess.Popen:
        """Start the training in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "repvgg_companion", *self.arguments(name, *options, **settings)],
            env=clean_environment(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def train(self, name: str, *options: object, status: int = 0, **settings) -> str:
        """Train in a process of its own; returns what it said, after checking its exit status."""
        process = self.start(name, *options, **settings)
        said = "".join(process.communicate(timeout=300))
        assert process.returncode == status, said
        return said

    def train_here(self, name: str, *options: object, **settings) -> int:
        """Train in this process, without its start-up; returns the exit status."""
        return main(self.arguments(name, *options, **settings))


@pytest.fixture(scope="session")
def small_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of the digits, cut to 320 training and 100 validation images."""
    folder = tmp_path_factory.mktemp("digits")
    assert main(["make-demo-data", "--output", str(folder / "raw")]) == 0
    index = ["index", "--dataset", "small-digits", "--output", str(folder / "data")]
    for option, name in (
        ("--train-archive", "ILSVRC2012_img_train.tar"),
        ("--val-archive", "ILSVRC2012_img_val.tar"),
        ("--devkit", "ILSVRC2012_devkit_t12.tar.gz"),
    ):
        index += [option, str(folder / "raw" / name)]
    assert main(index) == 0
    cut(folder / "data" / "train.parquet", 320)
    cut(folder / "data" / "val.parquet", 100)
    return folder / "data"


def cut(path: Path, count: int) -> None:
    """Keep `count` images of a manifest, evenly over the classes."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    parquet.write_table(table.take([place * table.num_rows // count for place in range(count)]), path)


@pytest.fixture
def trainings(small_digits: Path, tmp_path: Path) -> Trainings:
    """Trainings on the small digits below a fresh folder."""
    (tmp_path / "work").mkdir()
    return Trainings(small_digits, tmp_path / "work")
