"""The `report` verb: tables, figures, claims and provenance of an experiment in, one HTML page without links out."""

import argparse
import base64
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.contract import INFERENCE_VERDICTS, NUMBER_VERDICTS, read_rows
from repvgg_companion.errors import CompanionError, counted
from repvgg_companion.files import read_csv, read_json, write_text
from repvgg_companion.identity import weights_folder
from repvgg_companion.results.html_tables import (
    Pivot,
    claims_table,
    is_untested,
    markdown_table,
    pivot_table,
    rows_table,
)
from repvgg_companion.results.provenance import commits_in_words

FIGURES = {
    "figure1": "Accuracy against speed (Figure 1)",
    "figure3": "Memory of live feature maps (Figure 3)",
    "table1": "Kernel size and throughput (Table 1)",
    "branches": "Branch ablations (Tables 6 and 7)",
    "proxies": "Speed against FLOPs and Wino MULs",
    "roofline": "Roofline of this device",
    "training": "Training curves",
}
TABLES = {
    "table1": "Table 1: kernel sizes",
    "table2": "Table 2: architecture",
    "table3": "Table 3: variants",
    "table4": "Table 4: 120 epochs",
    "table5": "Table 5: 200 epochs",
    "table6": "Table 6: branches",
    "table7": "Table 7: variants of the block",
    "table8": "Table 8: semantic segmentation",
}
OPTIONAL_FIGURES = ("roofline", "training")
"""Figures that an experiment without speeds or trainings does not have."""
OURS = ("ours_", "demo_", "small_")
"""How the columns of our measurements begin in the paper's tables."""
_NETWORK = ("model", "dataset", "width", "num_classes")
MEASURED: dict[str, tuple[str, str, Pivot | list[str]]] = {
    "accuracy": (
        "Accuracy",
        "Top-1 of both forms in percent, with the 95 % Wilson interval over the validation images; of several seeds "
        "the mean, the lowest and the highest.",
        Pivot((*_NETWORK, "recipe", "protocol", "n_images"), ("form",), ("top1_pct", "top1_low_pct", "top1_high_pct")),
    ),
    "segmentation": (
        "Segmentation",
        "Mean IoU over the classes in percent, with the bootstrap 95 % interval over the images; of several seeds the "
        "mean and the lowest and highest.",
        Pivot(
            (*_NETWORK, "recipe", "protocol", "n_images"),
            ("form",),
            ("mean_iou_pct", "mean_iou_low_pct", "mean_iou_high_pct"),
        ),
    ),
    "speed": (
        "Speed",
        "Median examples per second with the bootstrap 95 % interval of the median, and what disturbed the "
        "measurement; only speeds of one run compare. The percentiles and sample counts are in speed.csv.",
        Pivot(
            ("model", "width", "input_px"),
            ("device", "precision", "backend", "batch_size", "form"),
            ("examples_per_s", "low_examples_per_s", "high_examples_per_s"),
        ),
    ),
    "reparameterization": (
        "Certificates of the conversion",
        "float64: largest difference of the logits of both forms over the largest logit; the deploy file equals the "
        "float64 conversion rounded to float32; float32: the same difference for the two files.",
        ["model", "dataset", "width", "seed", "float64_max_relative_error", "file_matches_conversion",
         "float32_max_relative_error", "prediction_flips", "n_inputs", "train_params", "deploy_params", "passed"],
    ),
    "complexity": (
        "Parameters and FLOPs",
        "Of the trained networks, counted; FLOPs are multiply-adds, as in the paper.",
        ["model", "form", "width", "num_classes", "input_px", "params", "flops"],
    ),
}  # fmt: skip
"""The measured tables: heading, note, and the columns, as a pivot or row by row."""


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page: its heading, its caption and its SVG in base64; or a panel of Figure 1."""

    heading: str
    caption: str
    data: str
    is_panel: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `report` verb."""
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--results", required=True, help="folder results/EXPERIMENT")
    parser.add_argument("--figures", required=True, help="folder paper_figures/EXPERIMENT")
    parser.add_argument("--output", required=True)


def run(arguments: argparse.Namespace) -> None:
    """Write the page; raises CompanionError naming a file that the page needs and that is not there."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    results, figures = Path(arguments.results), Path(arguments.figures)
    provenance = read_json(results / "provenance.json")
    claims = read_rows(results / "claims.csv", "claims")
    measured = [(key, heading, Markup(table), note) for key, heading, table, note in _measured(results)]
    own_images = _is_own(provenance["dataset"]["dataset"])
    ours, claimed = [(key, heading) for key, heading, _, _ in measured], [("claims", "Claims")]
    drawn, basis = [("figures", "Figures"), ("tables", "Tables")], [("facts", "Basis"), ("runs", "Runs")]
    weights = [("weights", "Weights")]
    contents = [*ours, *weights, *drawn, *claimed, *basis] if own_images else [*claimed, *ours, *drawn, *basis]
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(template).render(
        title=f"RepVGG companion: experiment {arguments.experiment}",
        provenance=provenance,
        commits=commits_in_words(provenance),
        experiment=arguments.experiment,
        own_images=own_images,
        weights=sorted({str(weights_folder(results, one)) for one in provenance["weights"].values()}),
        warnings=list(_warnings(provenance, claims, arguments.experiment)),
        n_claims=len({row["id"] for row in claims}),
        n_untested=sum(map(is_untested, claims)),
        verdict_names=_VERDICT_NAMES,
        verdicts=_verdicts(claims),
        contents=contents,
        facts=_facts(provenance),
        measured=measured,
        figures=list(_figures(figures, own_images)),
        claims_summary=claims_summary(claims),
        claims=Markup(claims_table(claims)),
        tables=[
            (heading, Markup(markdown_table(results / "tables" / f"{name}.md")))
            for name, heading in TABLES.items()
            if not own_images or _has_measurement(results / "tables" / f"{name}.csv")
        ],
        runs="\n".join(f"{run}  {' '.join(record['command'])}" for run, record in provenance["runs"].items()),
    )  # fmt: skip
    write_text(arguments.output, page)


_QUESTIONS = (
    ("verdict_number", "the printed number", NUMBER_VERDICTS),
    ("verdict_inference", "the inference", INFERENCE_VERDICTS),
)
_VERDICT_NAMES = tuple(dict.fromkeys(["reproduced", "met", "contradicted", *NUMBER_VERDICTS, *INFERENCE_VERDICTS]))


def _verdicts(claims: list[dict[str, Any]]) -> list[tuple[str, list[int | str]]]:
    """For each question how many rows have which verdict; a verdict that the question does not know is empty."""
    return [
        (
            question,
            [sum(row[column] == name for row in claims) if name in known else "" for name in _VERDICT_NAMES],
        )
        for column, question, known in _QUESTIONS
    ]


def claims_summary(claims: list[dict[str, Any]]) -> str:
    """One sentence that counts the verdicts by kind of claim."""
    parts = []
    for column, question, verdicts in _QUESTIONS:
        counts = {verdict: sum(row[column] == verdict for row in claims) for verdict in verdicts}
        parts.append(f"{question}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    if disturbed := _disturbed(claims):
        parts.append(f"{counted(disturbed, 'row')} on disturbed speeds (busy, drift, spread), which decide nothing")
    return f"Of {len({row['id'] for row in claims})} claims, {'; '.join(parts)}."


def _disturbed(claims: list[dict[str, Any]]) -> int:
    """How many rows rest on disturbed speeds, as claims.md counts them."""
    return sum(bool(row["flags"]) for row in claims)


def _is_own(dataset: str) -> bool:
    """Whether the images are neither the paper's nor the demo's; then our numbers come before the paper's claims."""
    return not dataset.startswith("demo") and dataset not in ("imagenet", "cityscapes")


def _warnings(provenance: dict[str, Any], claims: list[dict[str, Any]], experiment: str) -> Iterator[tuple[str, str]]:
    """What a reader must know before any number: other images, disturbed speeds, noted weights, an unclear commit."""
    dataset = provenance["dataset"]["dataset"]
    exact = "Counts, and speeds of full-width networks on the named device, do not depend on images."
    if dataset.startswith("demo"):
        yield (
            "Demo data: not results of the paper.",
            f"Experiment {experiment} rests on the dataset {dataset}. Its accuracies say nothing about ImageNet; they "
            f"show that the chain works. {exact}",
        )
    elif _is_own(dataset):
        yield (
            "Other images than the paper's: not results of the paper.",
            f"Experiment {experiment} rests on the dataset {dataset}. Its accuracies are results on these images and "
            f"say nothing about ImageNet. {exact}",
        )
    if disturbed := _disturbed(claims):
        yield (
            "Disturbed speeds.",
            f"{disturbed} of {len(claims)} rows of claims rest on speeds that were disturbed (busy, drift, spread). "
            "Such speeds decide nothing; measure again on a quiet machine.",
        )
    if notes := _notes(provenance["weights"].values()):
        yield "Notes on weights.", notes + "."
    measured = [record.get("commit", "unknown") for record in provenance["runs"].values()]
    every = sorted({provenance["commit"], *measured})
    if unclear := [commit for commit in every if commit.endswith("-dirty") or commit.startswith("unknown")]:
        told = ", ".join(unclear)
        yield "No clean commit.", f"The code that made this page or its rows cannot be named by a commit: {told}."


def _facts(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    dataset = provenance["dataset"]
    images = ", ".join(f"{dataset[split]['n_images']:,} {split}" for split in ("train", "val") if split in dataset)
    versions = provenance["environment"]
    shown = ("python", "torch", "torchvision", "snakemake", "system")
    return [
        ("dataset", f"{dataset['dataset']} ({images} images, {dataset['num_classes']} classes)"),
        ("notes on images", "; ".join(dataset.get("notes", ())) or "none"),
        ("dataset SHA-256", dataset["dataset_sha256"]),
        ("weights", f"{len(provenance['weights'])} files"),
        ("notes on weights", _notes(provenance["weights"].values()) or "none"),
        ("devices", ", ".join(provenance["devices"]) or "none"),
        ("software", ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)),
    ]


def _notes(weights: Iterable[dict[str, Any]]) -> str:
    """Each distinct note of the weights files; the two forms of one training count once."""
    network = ("dataset", "model", "width", "recipe", "training_digest", "seed")
    noted = {(entry["note"], *(entry.get(name) for name in network)) for entry in weights if entry.get("note")}
    counts = Counter(note for note, *_ in noted)
    return "; ".join(f"{note} ({count} trainings)" if count > 1 else note for note, count in sorted(counts.items()))


def _measured(results: Path) -> Iterator[tuple[str, str, str, str]]:
    """Key, heading, HTML table and note of each measured table: accuracies, certificates, counts, speeds."""
    trained = set()
    for table in ("accuracy", "segmentation", "reparameterization", "complexity", "speed"):
        rows = read_rows(path, table) if (path := results / f"{table}.csv").exists() else []
        networks = [tuple(row[name] for name in ("model", "width", "num_classes")) for row in rows]
        if table == "complexity":
            rows = [row for row, network in zip(rows, networks, strict=True) if network in trained]
        trained |= set(networks)
        if rows:
            heading, note, columns = MEASURED[table]
            made = pivot_table(columns, rows) if isinstance(columns, Pivot) else rows_table(columns, rows)
            yield table, heading, made, note


def _has_measurement(table: Path) -> bool:
    """Whether a table of the paper holds a value that was measured in this experiment."""
    return any(row[name] for row in _rows(table) for name in row if name.startswith(OURS))


def _draws_measurement(points: Iterable[dict[str, str]]) -> bool:
    """Whether some of the points of a figure, rows of the CSV file beside it, were measured in this experiment."""
    return any(not row["source"].startswith(("paper/", "the paper")) for row in points)


def _rows(path: Path) -> list[dict[str, str]]:
    return [row for _, row in read_csv(_made(path))[1]]


def _figures(folder: Path, own_images: bool) -> Iterator[PageFigure]:
    """The figures of the page, Figure 1 as its panels; on own images without those that draw nothing of ours."""
    for name, heading in FIGURES.items():
        if name in OPTIONAL_FIGURES and not (folder / f"{name}.svg").exists():
            continue
        points = _rows(folder / f"{name}.csv")
        is_panel = name == "figure1"
        for svg in sorted((folder / "panels").glob("figure1-?.svg")) if is_panel else [folder / f"{name}.svg"]:
            letter = f"({svg.stem[-1]})"
            drawn = [row for row in points if row["panel"].startswith(letter)] if is_panel else points
            if own_images and not _draws_measurement(drawn):
                continue
            words = _made(svg.with_suffix(".md")).read_text(encoding="utf-8").strip()
            words = words.removeprefix("Accuracy against speed, panel ")
            first, _, rest = words.partition(". ")
            words = rest if heading.startswith(first) else words
            yield PageFigure(heading, words, base64.b64encode(_made(svg).read_bytes()).decode(), is_panel)


def _made(path: Path) -> Path:
    """A file of the figures or tables; raises CompanionError if it is missing."""
    if not path.exists():
        raise CompanionError(f"{path} does not exist; make the figures and tables first")
    return path
