"""Write docs/architecture.md: diagrams of the rules of the workflow and of the rooms of the package."""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "repvgg_companion"
SHARED = {"errors", "files", "settings", "identity", "contract", "weights_file", "runs", "progress", "__main__"}
"""Single files that every room may use; they would hide the picture."""
HEAD = """# Architecture

Written by `make docs` from the code; a test compares the two.

"""
RULES = """## Rules

An arrow leads from a rule to the rule that reads its outputs. One rule calls one verb of the same name
(`python -m repvgg_companion VERB`). This is the demo; with released weights, `import_weights` replaces `train`.

"""
ROOMS = """## Rooms

An arrow leads from a room of `src/repvgg_companion` to a room that imports from it. Imports that follow from others are
left out. Each room has a README: what enters, what leaves, which file to open first.

"""


def rules() -> set[tuple[str, str]]:
    """Pairs of rules of the demo, as Snakemake prints them; the parts of a rule count as one."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--directory", folder, "--rulegraph", "dot"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
    names = {number: name.split("_batch")[0] for number, name in re.findall(r'(\d+)\[label = "(\w+)', done.stdout)}
    return {(names[first], names[second]) for first, second in re.findall(r"(\d+) -> (\d+)", done.stdout)}


def rooms() -> set[tuple[str, str]]:
    """Pairs of rooms, the imported one first."""
    pairs = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("repvgg_companion."):
                pairs.add((node.module.split(".")[1], room))
    return {(first, second) for first, second in pairs if first != second and not {first, second} & SHARED}


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs without those that follow from others; the pairs have no circle."""

    def reachable(start: str, without: tuple[str, str]) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            here = waiting.pop()
            steps = {second for first, second in pairs if first == here and (first, second) != without} - found
            found |= steps
            waiting += steps
        return found

    return {pair for pair in pairs if pair[1] not in reachable(pair[0], pair)}


def diagram(pairs: set[tuple[str, str]]) -> str:
    """A Mermaid flow chart, which GitHub draws."""
    lines = [f"    {first} --> {second}" for first, second in sorted(reduced(pairs))]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```", ""])


def text() -> str:
    """The whole page."""
    return HEAD + RULES + diagram(rules()) + "\n" + ROOMS + diagram(rooms())


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.md").write_text(text(), encoding="utf-8")
