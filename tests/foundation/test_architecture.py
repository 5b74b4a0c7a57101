"""The rules of the house: data flows one way, names are said once, and every file says what it is for."""

import ast
import itertools
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from repvgg_companion.__main__ import VERBS

ORDER = [
    "errors",
    "files",
    "settings",
    "identity",
    "contract",
    "weights_file",
    "runs",
    "progress",
    "machine",
    "data",
    "models",
    "complexity",
    "training",
    "reparameterization",
    "weights",
    "evaluation",
    "api",
    "speed",
    "results",
    "paper",
    "evidence",
    "experiment",
    "__main__",
]
"""The rooms: each imports only from those before it."""

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "repvgg_companion"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _name(path: Path) -> str:
    """The module's name inside the package, such as `data.index`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path) -> set[str]:
    """Every name inside the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("repvgg_companion.") for name in found if name.startswith("repvgg_companion.")}
    return inside - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_upstream_only(path):
    own = ORDER.index(_room(path))
    for room in {name.split(".")[0] for name in _imported(path)}:
        assert room in ORDER, f"{path} imports the unknown room {room}"
        assert ORDER.index(room) <= own, f"{path} imports {room}, which comes after it"


def _circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The import circles of a graph, one after the other; each is cut where it was found."""
    graph = {name: set(needed) for name, needed in graph.items()}
    found = set()
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]
            found.add(frozenset(circle))
            for one, other in itertools.pairwise(circle):
                graph[one].discard(other)
                graph[other].discard(one)
        else:
            return found


def test_no_files_import_each_other_in_a_circle():
    names = {_name(path): path for path in MODULES}
    graph = {
        name: {inner for found in _imported(path) for inner in (found, found.rpartition(".")[0]) if inner in names}
        - {name}
        for name, path in names.items()
    }
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}
    assert not _circles(graph)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_files_stay_small_and_say_what_they_do(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{path} is too long; split it"
    assert ast.get_docstring(TREES[path]), f"{path} has no docstring"
    for node in TREES[path].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_each_verb_lives_in_a_module_of_its_name():
    other = {verb for verb, (module, _) in VERBS.items() if module.split(".")[-1] != verb.replace("-", "_")}
    assert not other


def test_no_two_modules_share_a_name():
    places = defaultdict(list)
    for path in MODULES:
        if path.name != "__init__.py":
            places[path.stem].append(_name(path))
    doubled = {name: found for name, found in places.items() if len(found) > 1}
    assert not doubled


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for path in MODULES:
        for node in TREES[path].body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(_name(path))
    doubled = {name: found for name, found in places.items() if len(found) > 1}
    assert not doubled


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb):
    done = subprocess.run(
        [sys.executable, "-m", "repvgg_companion", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--log" in done.stdout


def _assert_without(unwanted: tuple[str, ...], verbs: tuple[str, ...]) -> None:
    """Import the modules of verbs in a process in which the unwanted packages cannot be imported."""
    code = (
        "import importlib, sys\n"
        f"for name in {unwanted!r}:\n"
        "    sys.modules[name] = None\n"
        "from repvgg_companion.__main__ import VERBS\n"
        f"for verb in {verbs!r}:\n"
        "    importlib.import_module('repvgg_companion.' + VERBS[verb][0])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_light_verbs_import_no_torch():
    _assert_without(("torch", "pandas"), ("index", "verify", "make-demo-data", "plan", "jobs", "schema", "status"))


def test_claims_and_tables_import_nothing_that_draws():
    """Their rules do not run again after an edit of a figure."""
    drawing = [f"repvgg_companion.paper.{path.stem}" for path in (PACKAGE / "paper").glob("figure*.py")]
    assert len(drawing) > 5
    _assert_without((*drawing, "matplotlib"), ("claims", "tables"))


def test_measuring_verbs_need_no_workflow_packages():
    _assert_without(
        ("pydantic", "pandas", "matplotlib", "snakemake", "seaborn", "jinja2"),
        ("index", "verify", "cache", "train", "reparameterize", "evaluate", "count-complexity", "measure-speed"),
    )
