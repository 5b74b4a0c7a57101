"""The pages that people read, cut into their blocks of code."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("architecture.md",)
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?:    (?:make|python|snakemake) [^\n]*\n)+")
"""Commands in a block without a fence."""


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
        whole = page.read_text(encoding="utf-8")
        fenced = [*FENCE.findall(whole), *(("    ", "bash", text) for text in INDENTED.findall(whole))]
        for indent, name, text in fenced:
            if name == language:
                found.append(Block(page, name, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)))
    return found


def page_blocks(name: str, language: str) -> list[Block]:
    """The blocks of one page of docs/."""
    return blocks(language, [ROOT / "docs" / name])


DRY_RUNS = """
import json, sys
from snakemake.cli import main
for words in json.load(sys.stdin):
    sys.argv = ["snakemake", *words]
    try:
        main(sys.argv[1:])
        status = 0
    except SystemExit as error:
        status = error.code or 0
        if isinstance(status, str):  # as Python does at its end
            print(status)
            status = 1
    print("status", status, flush=True)
"""


def dry_runs(lines: list[list[str]], folder: Path) -> tuple[list[int], str]:
    """The exit status of a dry run of each line, all in one process, since loading Snakemake takes longest."""
    given = [[*line, "--dry-run", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
             for line in lines]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUNS], input=json.dumps(given), capture_output=True, text=True, check=False,
        cwd=ROOT, env=environment,
    )  # fmt: skip
    return [int(code) for code in re.findall(r"^status (\d+)$", done.stdout, re.MULTILINE)], done.stdout + done.stderr
