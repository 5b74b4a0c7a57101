"""`--use-conda` and `environment.yml` with local channels and a stand-in for conda: solve, install, activate, run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from digits_experiment import digits_experiment

from repvgg_companion.contract import read_rows

pytestmark = pytest.mark.conda

ROOT = Path(__file__).resolve().parents[2]
PYPI_NAMES = {
    "pytorch": "torch", "py-opencv": "opencv-python-headless", "matplotlib-base": "matplotlib",
    "seaborn-base": "seaborn", "snakemake-minimal": "snakemake", "huggingface_hub": "huggingface-hub",
}  # fmt: skip
CONFIG = digits_experiment("conda", epochs=1)


@pytest.fixture(scope="module")
def conda(tmp_path_factory) -> dict[str, str]:
    """The variables of a shell in which `conda` is the stand-in and its channels are local."""
    if shutil.which("conda"):
        pytest.skip("a real conda is installed here; try `snakemake --use-conda` with it instead")
    folder = tmp_path_factory.mktemp("conda")
    maker, names = Path(__file__).with_name("local_channels.py"), json.dumps(PYPI_NAMES)
    subprocess.run([sys.executable, maker, ROOT / "environment.yml", folder / "channels", names], check=True)
    standin = Path(__file__).with_name("conda_standin.py")
    subprocess.run([sys.executable, str(standin), "--setup", str(folder / "conda")], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONDA")}
    return kept | {
        "PATH": f"{folder / 'conda' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "CONDA_STANDIN_CHANNELS": str(folder / "channels"),
        "OMP_NUM_THREADS": "1",
    }


def create(conda: dict[str, str], file: Path, *options: str) -> subprocess.CompletedProcess:
    command = ["conda", "env", "create", "-f", str(file), *options]
    return subprocess.run(command, env=conda, capture_output=True, text=True, check=False, timeout=120)


def changed(folder: Path, old: str, new: str) -> Path:
    """A copy of environment.yml with one thing changed."""
    text = (ROOT / "environment.yml").read_text()
    assert text.count(old) == 1, old
    (folder / "environment.yml").write_text(text.replace(old, new))
    return folder / "environment.yml"


def test_the_environment_file_is_solved_by_its_own_channels_and_ranges(conda, tmp_path):
    done = create(conda, ROOT / "environment.yml", "--dry-run")
    assert done.returncode == 0, done.stderr
    for old, new, said in (
        ("pytorch >=2.11", "pytorch >=99", "pytorch"),
        ("  - bioconda\n", "", "snakemake"),  # Snakemake is published nowhere else
        ("  - conda-forge\n", "  - conda-forge\n  - pytorch\n", "there is no channel pytorch"),
    ):
        done = create(conda, changed(tmp_path, old, new), "--dry-run")
        assert done.returncode != 0 and said in done.stderr, done.stderr


def test_rules_run_in_the_environment_that_snakemake_makes(conda, tmp_path):
    """Archives, index, training, conversion with its certificate and evaluation, each by the environment's Python."""
    (tmp_path / "conda.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    witness = tmp_path / "witness"
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)),
        *("--cores", "2", "--use-conda", "--configfile", str(tmp_path / "conda.yaml"), "--"),
    ]
    target = "results/conda/parts/accuracy-batch1.csv"
    done = subprocess.run(
        [*command, target],
        env=conda | {"CONDA_WITNESS": str(witness)}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    rows = read_rows(tmp_path / target, "accuracy")
    assert {row["form"] for row in rows} == {"train", "deploy"} and all(row["n_images"] > 100 for row in rows)

    (environment,) = [path for path in (tmp_path / ".snakemake/conda").iterdir() if path.is_dir()]
    calls = [line.split() for line in witness.read_text().splitlines()]
    verbs = {call[3] for call in calls if call[1:3] == ["-m", "repvgg_companion"]}
    assert verbs == {"make-demo-data", "index", "cache", "train", "reparameterize", "evaluate"}
    assert {Path(call[0]).resolve() for call in calls} == {environment.resolve()}
