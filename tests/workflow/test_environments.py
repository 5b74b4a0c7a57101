"""pyproject.toml, requirements.lock and environment.yml say the same; `tests/conda` solves and uses the latter."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .conftest import ROOT

CONDA_NAMES = {
    "torch": "pytorch", "opencv-python-headless": "py-opencv", "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base", "snakemake": "snakemake-minimal", "huggingface-hub": "huggingface_hub",
}  # fmt: skip


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {Requirement(text).name: Requirement(text) for text in project["dependencies"]}


def locked() -> dict[str, list[str]]:
    pins: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.M):
        pins.setdefault(name, []).append(version)
    return pins


def test_the_lock_pins_by_hash_and_names_no_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.M)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block)
    assert len(locked()) > 100


def test_the_lock_fits_pyproject_and_its_pins():
    pins = locked()
    for name, requirement in requirements().items():
        assert any(requirement.specifier.contains(version) for version in pins[name]), name
    assert pins["torch"] == ["2.13.0"] and pins["torchvision"] == ["0.28.0"]


def disagreement(text: str) -> str:
    """What an environment file says otherwise than pyproject.toml and the lock; empty where they agree."""
    environment = yaml.safe_load(text)
    if environment["channels"] != ["conda-forge", "bioconda"]:
        return f"channels {environment['channels']}"
    conda = {}
    for line in environment["dependencies"]:
        name, _, rest = line.partition(" ")
        conda[name] = SpecifierSet(rest)
    pins = locked()
    for name, requirement in requirements().items():
        there = conda.pop(CONDA_NAMES.get(name, name), None)
        if there is None:
            return f"lacks {name}"
        if str(there) != str(requirement.specifier):
            return f"{name} {there}, not {requirement.specifier}"
        if not all(there.contains(version) for version in pins[name]):
            return f"{name} {there} does not hold {pins[name]}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = conda.pop("python", SpecifierSet())
    lowest = project["requires-python"].removeprefix(">=")
    if not python.contains(lowest) or python.contains("3.10"):
        return f"python {python}, not {project['requires-python']}"
    return f"also {', '.join(conda)}" if conda else ""


def test_environment_yml_has_every_requirement_with_a_range_that_holds_the_pin():
    assert disagreement((ROOT / "environment.yml").read_text()) == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  - scipy >=1.13\n", "", "lacks scipy"),
        ("scipy >=1.13", "scipy >=1.14", "scipy >=1.14, not >=1.13"),
        ("python >=3.11,", "python >=3.12,", "python"),
        ("  - rich >=13\n", "  - rich >=13\n  - tqdm >=4\n", "also tqdm"),
        ("  - bioconda\n", "", "channels"),
    ],
)
def test_a_planted_difference_is_found(old, new, said):
    text = (ROOT / "environment.yml").read_text()
    assert text.count(old) == 1 and disagreement(text.replace(old, new)).startswith(said)


def test_every_requirement_is_justified():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for line in lines:
        if re.match(r'\s+"[a-z0-9-]+>=', line):
            assert "#" in line, line
