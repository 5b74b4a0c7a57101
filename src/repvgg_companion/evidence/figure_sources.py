"""What a figure rests on: commit and data digest from its metadata, and the rows behind its points.

The points are those of the CSV file beside the figure; without that file they are computed from the results again.
"""

import re
from dataclasses import astuple, fields, replace
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.evidence.cell import Chosen, NoSuchCell, TextTable, choose, read_table
from repvgg_companion.evidence.named_sources import Places, followed
from repvgg_companion.evidence.pictures import PICTURES, pictures
from repvgg_companion.evidence.pictures import data_digest as picture_digest
from repvgg_companion.evidence.raw_row import Node
from repvgg_companion.evidence.sources import read_sources
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.figure_points import POINTS, FigurePoint
from repvgg_companion.paper.figures import PANELS, TITLES, data_digest
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import Facts

_METADATA = re.compile(rb"commit ([^;\n]{1,80}); data ([0-9a-f]{8})")
PAIRED = "pairs of samples of one group of networks, so not the quotient of both medians; docs/reading.md, Verdicts"
"""What a ratio of speeds is taken over."""
POINT_COLUMNS = [field.name for field in fields(FigurePoint)]


def is_points(table: TextTable) -> bool:
    """Whether a CSV file holds the points of a figure."""
    return table.columns == POINT_COLUMNS


def places_of(path: Path, facts: Facts, results: Path | None) -> Places:
    """The results that a file below `paper_figures` was drawn from, unless `results` names them."""
    root = path.parent.parent.parent / "results"
    folder = results or root / ("devices" if path.parent.name == "reference" else path.parent.name)
    if not folder.is_dir():
        raise CompanionError(f"{folder} does not exist; name the folder that {path} was drawn from with --results")
    return Places(facts, Results(folder), root / "studies")


def figure_nodes(path: Path, cell: str, facts: Facts, results: Path | None) -> list[Node]:
    """The tree of a figure, with the rows behind the points that `cell` names: a network, or values of its CSV file."""
    metadata_of(path)  # raises if the file is not one of our figures
    whole, panel = _whole_figure(path)
    places = places_of(whole, facts, results)
    title, digest, tables = _about(whole, places)
    children = metadata_nodes(path, digest, tables)
    points = _points(whole, places)
    shown = [number for number, row in enumerate(points.rows, start=1) if row["panel"].startswith(panel)]
    if not cell:
        children.append(Node(f"{points.path}: {len(shown)} points; name a network or a value of that file to see "
                             "what a point rests on"))  # fmt: skip
    else:
        children += point_nodes(Chosen(points, _numbers(path, points, cell, shown), None), places)
    return [Node(f"{path}: {title}{f', {cell}' if cell else ''}", tuple(children))]


def point_nodes(chosen: Chosen, places: Places) -> list[Node]:
    """The points of some rows of a CSV file of points, each with its sources."""
    found = []
    for number, row in chosen.rows:
        where = ", ".join(row[name] for name in ("panel", "series", "name") if row[name])
        axes = "; ".join(_axis(row, axis) for axis in ("x", "y") if row[axis])
        values = tuple(float(row[axis]) for axis in ("x", "y") if row[axis])
        sources = list(followed(row["source"], replace(places, values=values)))
        if row["x_quantity"].startswith("times as fast") and row["x_low"]:
            sources.append(Node(PAIRED))
        found.append(Node(f"{chosen.table.path}: row {number} ({where}): {axes}", tuple(sources)))
    return found


def _axis(row: dict[str, str], axis: str) -> str:
    interval = f" [{row[f'{axis}_low']}, {row[f'{axis}_high']}]" if row[f"{axis}_low"] else ""
    return f"{row[f'{axis}_quantity']} = {row[axis]}{interval}"


def _whole_figure(path: Path) -> tuple[Path, str]:
    """The figure that a file belongs to; a panel of its own, `panels/figure1-a.svg`, with `(a)`."""
    if path.parent.name != PANELS:
        return path, ""
    name, _, letter = path.stem.rpartition("-")
    return path.parent.parent / f"{name}{path.suffix}", f"({letter})"


def _numbers(path: Path, points: TextTable, cell: str, shown: list[int]) -> list[int]:
    """The rows that CELL names among those that the figure shows."""
    if not shown:
        raise CompanionError(f"{path.stem} has no points; nothing that it shows was measured")
    try:
        numbers = [number for number in choose(points, cell, most=len(points.rows)).numbers if number in shown]
    except NoSuchCell:
        numbers = []
    if not numbers:
        raise CompanionError(
            f"{path.stem} has no point of {cell.strip()!r}; give the name of a network, such as RepVGG-A0, or a "
            f"value of {points.path}"
        )
    return numbers


def _points(path: Path, places: Places) -> TextTable:
    beside = path.with_suffix(".csv")
    if beside.is_file():
        table = read_table(beside)
        if not is_points(table):
            raise CompanionError(f"{beside} does not hold the points of {path.name}; draw the figure again")
        return table
    if path.stem not in POINTS:
        raise CompanionError(f"{beside} does not exist; draw the figure again to get the points of {path.name}")
    found = POINTS[path.stem](Evidence.shown(places.facts, places.results), None)
    rows = [
        dict(zip(POINT_COLUMNS, ("" if cell is None else str(cell) for cell in astuple(one)), strict=True))
        for one in found
    ]
    return TextTable(beside, POINT_COLUMNS, rows)


def _about(path: Path, places: Places) -> tuple[str, str, str]:
    """The title of a figure, the digest of its tables today, and where these tables are."""
    if path.stem in PICTURES or (places.studies / path.stem).is_dir():
        results = places.studies.parent
        sources = read_sources(places.facts.folder, results / "devices", places.studies)
        return (
            pictures(sources.studies)[path.stem].title,
            picture_digest(sources),
            f"{results} and {places.facts.folder}",
        )
    where = f"{places.results.folder} and {places.facts.folder}"
    return TITLES.get(path.stem, path.stem), data_digest(places.facts, places.results), where


def metadata_of(path: Path) -> tuple[str, str]:
    """Commit and data digest of a figure; raises CompanionError if the file does not hold them."""
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
