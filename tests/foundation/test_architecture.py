"""Data flows one way: a module imports only from rooms that stand above its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from repvgg_companion.__main__ import VERBS

ORDER = [
    "errors", "files", "contract", "identity", "weights_file", "runs", "progress", "data", "models", "complexity",
    "training", "reparameterization", "weights", "evaluation", "speed", "results", "paper", "experiment", "__main__",
]  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[2] / "src" / "repvgg_companion"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "repvgg_companion":
                names = [f"repvgg_companion.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("repvgg_companion.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_upstream_only(path):
    own = ORDER.index(_room(path))
    for room in _imported_rooms(path):
        assert room in ORDER, f"{path} imports the unknown room {room}"
        assert ORDER.index(room) <= own, f"{path} imports {room}, which stands below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small_and_say_what_they_do(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{path} is a room too large; split it"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} has no first line that says what goes in and comes out"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb):
    done = subprocess.run(
        [sys.executable, "-m", "repvgg_companion", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--log" in done.stdout


def test_light_verbs_import_no_torch():
    code = (
        "import sys\n"
        "import repvgg_companion.data.index, repvgg_companion.data.verify, repvgg_companion.models.names\n"
        "import repvgg_companion.training.recipe, repvgg_companion.speed.settings, repvgg_companion.data.demo\n"
        "import repvgg_companion.experiment.layout, repvgg_companion.experiment.load\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules, 'heavy import'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_measuring_verbs_need_no_workflow_packages():
    code = (
        "import sys\n"
        "for name in ('pydantic', 'pandas', 'pandera', 'matplotlib', 'snakemake', 'seaborn', 'jinja2'):\n"
        "    sys.modules[name] = None\n"
        "import importlib\n"
        "from repvgg_companion.__main__ import VERBS\n"
        "for verb in ('index', 'verify', 'cache', 'train', 'reparameterize', 'evaluate', 'count-complexity',\n"
        "             'measure-speed'):\n"
        "    importlib.import_module('repvgg_companion.' + VERBS[verb][0])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
