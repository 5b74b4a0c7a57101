"""The diagrams are those of the code, and every verb, target and file that CONTRIBUTING.md names exists."""

import importlib.util
import re

import pytest

from repvgg_companion.__main__ import VERBS


@pytest.fixture
def draw(root):
    spec = importlib.util.spec_from_file_location("draw", root / "docs" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagrams_are_up_to_date(draw, root):
    assert (root / "docs" / "architecture.md").read_text() == draw.text(), "run: make docs"


def test_what_follows_is_left_out(draw):
    assert draw.reduced({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}


def test_contributing_names_what_exists(root):
    text = (root / "CONTRIBUTING.md").read_text()
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for verb in re.findall(r"-m repvgg_companion ([a-z-]+)", text):
        assert verb in VERBS, verb
    paths = re.findall(r"`((?:src|tests|config|paper|workflow|docs|results|benchmarks)/[\w./-]+)`", text)
    assert len(paths) > 10
    for path in paths:
        assert (root / path).exists(), path
