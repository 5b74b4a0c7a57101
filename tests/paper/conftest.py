"""Fixtures of the paper's tests."""

import pytest
from paper_synthetic import PAPER, write_demo, write_imagenet

from repvgg_companion.paper.printed import Facts


@pytest.fixture(scope="session")
def facts() -> Facts:
    """The repository's own facts."""
    return Facts(PAPER)


@pytest.fixture
def imagenet(tmp_path, facts):
    """Results of a whole ImageNet experiment that met every printed number."""
    return write_imagenet(tmp_path / "results" / "imagenet", facts)


@pytest.fixture
def demo(tmp_path, facts):
    """Results of a demo run."""
    return write_demo(tmp_path / "results" / "demo", facts)
