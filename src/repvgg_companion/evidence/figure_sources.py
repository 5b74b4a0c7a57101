"""What a figure rests on: commit and data digest from its metadata, and the rows behind the points of one network."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.claim_sources import quantities_basis
from repvgg_companion.evidence.raw_row import Basis, basis_node, rows_basis
from repvgg_companion.evidence.table_sources import accuracy_rows, printed
from repvgg_companion.evidence.tree import Node
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import widest, widest_of_each_device
from repvgg_companion.paper.figures import TITLES, data_digest
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.named_checks import block_rows
from repvgg_companion.paper.ours import Results, Row
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.table_rows import ablations

_METADATA = re.compile(rb"commit ([^;\n]{1,80}); data ([0-9a-f]{8})")


def figure_nodes(path: Path, cell: str, facts: Facts, results: Path | None) -> list[Node]:
    """The tree of a figure, with the rows behind the points of the network or kernel that `cell` names."""
    metadata_of(path)  # a file without it is none of our figures
    folder = results or _results_of(path)
    data = Results(folder)
    children = metadata_nodes(path, data_digest(facts, data), f"{folder} and {facts.folder}")
    if cell:
        basis = _points(path.stem, cell.strip(), facts, data)
        children += [basis_node(data, part) for part in basis]
    else:
        children += [Node(row) for row in _tables(path.stem, folder)]
    title = TITLES.get(path.stem, path.stem)
    return [Node(f"{path}: {title}{f', {cell}' if cell else ''}", tuple(children))]


def metadata_of(path: Path) -> tuple[str, str]:
    """Commit and data digest of a figure; raises CompanionError where the file does not hold them."""
    found = _METADATA.search(path.read_bytes())
    if found is None:
        raise CompanionError(f"{path} holds neither commit nor data digest; draw it with the verb 'figures'")
    return found[1].decode(), found[2].decode()


def metadata_nodes(path: Path, today: str, tables: str) -> list[Node]:
    """Commit and data digest of a figure, compared with the digest of its tables `today`."""
    commit, digest = metadata_of(path)
    words = "the same as" if today == digest else f"not those ({today}) of"
    return [
        Node(f"commit {commit}" if " " not in commit else f"commit: {commit}"),
        Node(f"data digest {digest}: the tables of {tables} today are {words} this figure"),
    ]


def _results_of(path: Path) -> Path:
    """The results that a figure below `paper_figures` was drawn from."""
    experiment = path.parent.name
    root = path.parent.parent.parent / "results"
    folder = root / ("devices" if experiment == "reference" else experiment)
    if not folder.is_dir():
        raise CompanionError(f"{folder} does not exist; name the folder that {path} was drawn from with --results")
    return folder


def _tables(figure: str, folder: Path) -> list[str]:
    special = {"figure3": ("memory",), "table1": ("kernel_size",), "training": ("accuracy",)}
    names = special.get(figure, ("speed", "accuracy", "complexity"))
    paths = [path for name in names for path in sorted(folder.glob(f"**/{name}.csv"))]
    return [f"{path}: name a network or kernel size to see its rows" for path in paths]


def _points(figure: str, cell: str, facts: Facts, results: Results) -> list[Basis]:
    if figure not in _FIGURES:
        raise CompanionError(f"the points of {figure} cannot be traced; those of {', '.join(_FIGURES)} can")
    speeds = widest(results)
    evidence = Evidence(facts, results, speeds, "" if speeds else "no speed was measured")
    basis = _FIGURES[figure](evidence, cell)
    if not basis:
        raise CompanionError(f"{figure} has no point of {cell!r}; give the name of a network, such as RepVGG-A0, or a "
                             "kernel size, such as 3")  # fmt: skip
    return basis


def _speeds(evidence: Evidence, model: str, form: str = "deploy") -> list[Basis]:
    rows = [run.rows.get((model, form)) for run in widest_of_each_device(evidence.results)]
    return rows_basis("speed", [row for row in rows if row is not None])


def _printed(evidence: Evidence, model: str, *tables: str) -> list[Basis]:
    return [
        printed(evidence, table, number, "")
        for table in tables
        for number, row in enumerate(evidence.facts.table(table), start=1)
        if row["model"] == model
    ]


def _accuracies(evidence: Evidence, model: str, models: set[str]) -> list[Basis]:
    found: dict[int, Row] = {}
    for recipe in ("120-epochs", "200-epochs"):
        for prefix in ("ours", "demo", "small"):
            rows = accuracy_rows(evidence, Quantity("top1", model, (recipe,)), models, prefix)
            found |= {id(row): row for row in rows}
    return rows_basis("accuracy", list(found.values()))


def _figure1(evidence: Evidence, model: str) -> list[Basis]:
    plain = {name for run in widest_of_each_device(evidence.results)[:1] for name, _ in run.rows if "_" not in name}
    found = [*_printed(evidence, model, "figure1", "table4", "table5"), *_speeds(evidence, model)]
    return [*found, *_accuracies(evidence, model, plain)]


def _proxies(evidence: Evidence, model: str) -> list[Basis]:
    found = _printed(evidence, model, "table4")
    for run in widest_of_each_device(evidence.results) if found else []:
        try:
            wanted = [Quantity(name, model) for name in ("speed", "flops", "wino")]
            found += quantities_basis(wanted, replace(evidence, speeds=run))
        except NotAvailable:
            continue
    return found


def _branches(evidence: Evidence, model: str) -> list[Basis]:
    found = [*_printed(evidence, model, "table6", "table7"), *_speeds(evidence, model, "train")]
    return [*found, *_accuracies(evidence, model, ablations(evidence.facts))] if found else []


def _roofline(evidence: Evidence, model: str) -> list[Basis]:
    return [*_speeds(evidence, model), *_speeds(evidence, model, "train")]


def _kernel(evidence: Evidence, size: str) -> list[Basis]:
    facts = [str(row["kernel_size"]) for row in evidence.facts.table("table1")]
    paper = [printed(evidence, "table1", facts.index(size) + 1, "")] if size in facts else []
    rows = [row for row in evidence.results.rows("kernel_size") if str(row["kernel_size"]) == size]
    return [*paper, *rows_basis("kernel_size", rows)]


def _feature_maps(evidence: Evidence, model: str) -> list[Basis]:
    rows = evidence.results.rows("memory")
    blocks = [row for kind in ("residual", "plain") for row in block_rows(rows, kind)]
    return rows_basis("memory", [row for row in blocks if row["model"] == model])


def _training(evidence: Evidence, model: str) -> list[Basis]:
    return rows_basis("accuracy", [row for row in evidence.results.rows("accuracy") if row["model"] == model])


_FIGURES: dict[str, Callable[[Evidence, str], list[Basis]]] = {
    "figure1": _figure1,
    "figure3": _feature_maps,
    "table1": _kernel,
    "branches": _branches,
    "proxies": _proxies,
    "roofline": _roofline,
    "training": _training,
}
