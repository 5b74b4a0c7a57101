"""Fixtures of the evidence's tests: the repository's sources, and a copy with planted rows of each class."""

import os
import shutil

import pytest
from evidence_rows import ROOT, plant_everything, sources_of
from paper_synthetic import PAPER

from repvgg_companion.evidence.ledger import ledger_rows
from repvgg_companion.paper.printed import Facts


@pytest.fixture(scope="session")
def facts() -> Facts:
    """The repository's own facts."""
    return Facts(PAPER)


@pytest.fixture(scope="session")
def committed_rows():
    """The rows that the repository's own files give."""
    return ledger_rows(sources_of(ROOT))


def _rows_only(source, target):
    """Copy a table, which a test may change, and link any other file."""
    (shutil.copy if source.endswith(".csv") else os.symlink)(source, target)


@pytest.fixture
def copy(tmp_path):
    """A copy of the paper's facts and of the device rows; samples and runs are links to the files."""
    shutil.copytree(ROOT / "paper", tmp_path / "paper")
    shutil.copytree(ROOT / "results" / "devices", tmp_path / "results" / "devices", copy_function=_rows_only)
    return tmp_path


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """Claims and rows of a copy with one planted row of each class that others or studies can give."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "paper", root / "paper")
    shutil.copytree(ROOT / "results" / "devices", root / "results" / "devices")
    plant_everything(root)
    sources = sources_of(root)
    return sources, ledger_rows(sources)
