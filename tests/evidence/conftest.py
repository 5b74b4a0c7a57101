"""Fixtures of the evidence's tests."""

import pytest
from paper_synthetic import PAPER

from repvgg_companion.paper.printed import Facts


@pytest.fixture(scope="session")
def facts() -> Facts:
    """The repository's own facts."""
    return Facts(PAPER)
