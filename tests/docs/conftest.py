"""The pages that people read, cut into their blocks of code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("architecture.md",)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config/README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, its language, and its text without the indentation of the fence."""

    page: Path
    language: str
    text: str

    def commands(self) -> Iterator[list[str]]:
        """The words of each command; a line that ends in a backslash goes on."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def blocks(language: str, pages: list[Path] = PAGES) -> list[Block]:
    """The blocks of one language, in the order of the pages."""
    found = []
    for page in pages:
        for indent, name, text in FENCE.findall(page.read_text(encoding="utf-8")):
            if name == language:
                found.append(Block(page, name, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)))
    return found


def page_blocks(name: str, language: str) -> list[Block]:
    """The blocks of one page of docs/."""
    return blocks(language, [ROOT / "docs" / name])


@pytest.fixture(autouse=True)
def few_threads():
    """Small tensors are quicker on one thread, above all when other tests run beside these."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
