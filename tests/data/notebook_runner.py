"""Run the cells of a notebook in this process, as a kernel would, without starting one."""

import json
from pathlib import Path


def cells(path: Path) -> list[dict]:
    """The cells of a notebook file."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def run_notebook(path: Path, shown: list) -> dict:
    """Run all code cells; what the notebook displays goes to `shown`. Returns the names that it defined."""
    space = {"display": shown.append, "__name__": "__main__"}
    for cell in cells(path):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {cell['id']}", "exec"), space)
    return space
