"""What the pictures of the ledger rest on: printed, published and measured rows behind the points of one network."""

from collections.abc import Callable, Iterator
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.figure1_others import others_panels
from repvgg_companion.evidence.figure_sources import metadata_nodes
from repvgg_companion.evidence.ledger_sources import printed_node, published_node
from repvgg_companion.evidence.pictures import data_digest, titles
from repvgg_companion.evidence.raw_row import raw_node
from repvgg_companion.evidence.sources import LedgerRequest, Sources, read_sources
from repvgg_companion.evidence.speedups_picture import PAIRS
from repvgg_companion.evidence.table_sources import printed
from repvgg_companion.evidence.third_party import OTHER_BASELINE, SPEED_FILE
from repvgg_companion.evidence.tree import Node
from repvgg_companion.paper.comparable_runs import BEST, comparable_runs
from repvgg_companion.paper.grammar import Quantity
from repvgg_companion.paper.printed import Facts


def picture_nodes(path: Path, cell: str, facts: Facts) -> list[Node]:
    """The tree of a picture of the ledger; results are those beside the folder of figures."""
    results = path.parent.parent.parent / "results"
    request = LedgerRequest(facts.folder, results / "devices", results / "studies", results / "reference", None)
    sources = read_sources(request)
    children = metadata_nodes(path, data_digest(sources), f"{request.devices} and {facts.folder}")
    title = titles(sources.studies)[path.stem]
    if not cell:
        children.append(Node("name a network, such as RepVGG-A0, to see the rows behind its points"))
        return [Node(f"{path}: {title}", tuple(children))]
    points = list(_POINTS.get(path.stem, _study(path.stem))(sources, cell.strip()))
    if not points:
        raise CompanionError(
            f"{path.stem} has no point of {cell.strip()!r}; give the name of a network, such as RepVGG-A0"
        )
    return [Node(f"{path}: {title}, {cell}", (*children, *points))]


def _speed_ups(sources: Sources, model: str) -> Iterator[Node]:
    for pair in (pair for pair in PAIRS if model in pair or _plain(model) == _plain(" / ".join(pair))):
        top, bottom = (Quantity("speed", name) for name in pair)
        rows = [printed_node(quantity, sources.facts) for quantity in (top, bottom)]
        lines: dict[int, None] = {}
        for table in sources.speeds:
            found = [table.by_model.get(name) for name in pair]
            if all(found):
                lines |= {row.line: None for row in found if row is not None}
        rows += [published_node(sources.facts.folder / SPEED_FILE, line) for line in lines]
        for run in comparable_runs(sources.devices, [top, bottom])[0]:
            if run.backend != BEST:
                measured = [run.rows[name, "deploy"] for name in pair]
                rows += [raw_node(sources.devices, "speed", row) for row in measured]
        yield Node(f"the points of {pair[0]} / {pair[1]}", tuple(rows))


def _plain(name: str) -> str:
    """`A0/ResNet-18`: a pair as the picture labels it, without spaces."""
    return name.replace(" ", "").replace("RepVGG-", "")


def _accuracies(sources: Sources, model: str) -> Iterator[Node]:
    for row in sources.published:
        if row.model == model and row.kind != OTHER_BASELINE:
            yield published_node(sources.facts.folder / row.file, row.line)


def _figure1_others(sources: Sources, model: str) -> Iterator[Node]:
    lines = [row.line for panel in others_panels(sources.facts, sources.speeds) for row in panel.rows
             if row.model == model]  # fmt: skip
    for number, fact in enumerate(sources.facts.table("figure1") if lines else (), start=1):
        if fact["model"] == model:
            yield Node(printed(sources.empty, "figure1", number, "top1_pct").words)
    for line in lines:
        yield published_node(sources.facts.folder / SPEED_FILE, line)


def study_of(path: Path) -> Path:
    """The folder of the small study that a picture of this path shows, if it shows one."""
    return path.parent.parent.parent / "results" / "studies" / path.stem


def _study(name: str) -> Callable[[Sources, str], Iterator[Node]]:
    """The rows of a network in the study of a name."""

    def nodes(sources: Sources, model: str) -> Iterator[Node]:
        for study in sources.studies:
            if study.name == name:
                yield from (raw_node(study.results, "accuracy", row) for row in study.rows if row["model"] == model)

    return nodes


_POINTS: dict[str, Callable[[Sources, str], Iterator[Node]]] = {
    "speedups": _speed_ups,
    "accuracy-holds": _accuracies,
    "figure1-others": _figure1_others,
}
