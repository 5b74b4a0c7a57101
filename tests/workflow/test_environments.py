"""pyproject.toml, requirements.lock and environment.yml say the same."""

import re
import tomllib

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


def test_environment_yml_has_every_requirement_with_a_range_that_holds_the_pin():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    conda = {}
    for line in environment["dependencies"]:
        name, _, rest = line.partition(" ")
        conda[name] = SpecifierSet(rest)
    pins = locked()
    for name, requirement in requirements().items():
        there = conda.pop(CONDA_NAMES.get(name, name))
        assert str(there) == str(requirement.specifier), name
        assert any(there.contains(version) for version in pins[name]), name
    assert set(conda) == {"python"}


def test_every_requirement_is_justified():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for line in lines:
        if re.match(r'\s+"[a-z0-9-]+>=', line):
            assert "#" in line, line
