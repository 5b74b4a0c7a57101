"""The `report` verb: tables, figures, claims and provenance of an experiment in, one HTML page without links out."""

import argparse
import base64
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repvgg_companion.contract import INFERENCE_VERDICTS, NUMBER_VERDICTS, read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json, write_text
from repvgg_companion.results.html_tables import claims_table, markdown_table, rows_table

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

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  :root { color-scheme: light; }
  body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; margin: 0 auto; max-width: 76rem; padding: 1rem; }
  h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
  .demo { background: #fff3cd; border-left: .4rem solid #c77700; padding: .6rem 1rem; margin: 1rem 0; }
  .scroll { overflow-x: auto; } nav a { margin-right: .8rem; }
  table { border-collapse: collapse; font-size: .82rem; }
  th, td { padding: .15rem .5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
  td { white-space: nowrap; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
  td.wrap { white-space: normal; min-width: 16rem; } td.narrow { white-space: normal; }
  small, .notes { font-size: .75rem; color: #555; } .notes { margin: .3rem 0 1.4rem; }
  .figures { columns: 21rem; column-gap: 1.4rem; }
  figure { margin: 0 0 1.4rem; break-inside: avoid; }
  figure img { max-width: 100%; height: auto; border: 1px solid #eee; }
  code, pre { font-size: .82rem; background: #f6f6f6; } pre { padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
  .reproduced, .met { color: #00694a; } .contradicted, .not-met { color: #a63a00; }
  .inconclusive, .open { color: #6b5200; } .not-tested { color: #666; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>An unofficial companion to Ding et al., <em>RepVGG: Making VGG-style ConvNets Great Again</em> (CVPR 2021).
Commit <code>{{ provenance.commit }}</code>, configuration <code>{{ provenance.configuration_digest }}</code>.</p>
{% if warning %}<p class="demo"><strong>{{ warning[0] }}</strong> {{ warning[1] }}</p>{% endif %}
<nav>{% for anchor, name in contents %}<a href="#{{ anchor }}">{{ name }}</a>{% endfor %}</nav>

<h2 id="facts">What this rests on</h2>
<div class="scroll"><table>
{% for name, value in facts %}<tr><th>{{ name }}</th><td class="wrap">{{ value }}</td></tr>
{% endfor %}</table></div>

{% for key, heading, rows, note in measured %}
<h2 id="{{ key }}">{{ heading }}</h2>
<p>{{ note }}</p>
{{ rows }}
{% endfor %}

<h2 id="figures">Figures</h2>
<div class="figures">
{% for heading, data in figures %}
<figure><figcaption>{{ heading }}</figcaption>
<img alt="{{ heading }}" src="data:image/svg+xml;base64,{{ data }}"></figure>
{% endfor %}
</div>

<h2 id="claims">Claims of the paper</h2>
<p>{{ claims_summary }}</p>
{{ claims }}

<h2 id="tables">The paper's tables beside ours</h2>
{% for heading, table in tables %}<h3>{{ heading }}</h3>{{ table }}{% endfor %}

<h2 id="runs">Runs</h2>
<pre>{{ runs }}</pre>
</body>
</html>
"""


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
    dataset = provenance["dataset"]
    measured = list(_measured(results))
    claims = read_rows(results / "claims.csv", "claims")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    contents = [
        ("facts", "Basis"),
        *((key, heading) for key, heading, _, _ in measured),
        ("figures", "Figures"),
        ("claims", "Claims"),
        ("tables", "Tables"),
        ("runs", "Runs"),
    ]
    page = environment.from_string(PAGE).render(
        title=f"RepVGG companion: experiment {arguments.experiment}",
        provenance=provenance,
        warning=_warning(dataset["dataset"], arguments.experiment),
        contents=contents,
        facts=_facts(provenance),
        measured=measured,
        figures=[(heading, _embedded(figures / f"{name}.svg")) for name, heading in FIGURES.items()],
        claims_summary=claims_summary(claims),
        claims=Markup(claims_table(claims)),
        tables=[
            (heading, Markup(markdown_table(results / "tables" / f"{name}.md"))) for name, heading in TABLES.items()
        ],
        runs="\n".join(f"{run}  {' '.join(record['command'])[:400]}" for run, record in provenance["runs"].items()),
    )
    write_text(arguments.output, page)


def claims_summary(claims: list[dict[str, Any]]) -> str:
    """One sentence that counts the verdicts by kind of claim."""
    parts = []
    for column, question, verdicts in (
        ("verdict_number", "the printed number", NUMBER_VERDICTS),
        ("verdict_inference", "the inference", INFERENCE_VERDICTS),
    ):
        counts = {verdict: sum(row[column] == verdict for row in claims) for verdict in verdicts}
        parts.append(f"{question}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    disturbed = sum(bool(row["flags"]) for row in claims)
    if disturbed:
        parts.append(f"{disturbed} rows are left open because their speeds were disturbed (busy, drift, spread)")
    return f"Of {len({row['id'] for row in claims})} claims, {'; '.join(parts)}."


def _warning(dataset: str, experiment: str) -> tuple[str, str] | None:
    if dataset in ("imagenet", "cityscapes"):
        return None
    kind = "Demo data" if dataset.startswith("demo") else "Other images than the paper's"
    return (
        f"{kind}: not results of the paper.",
        f"Experiment {experiment} rests on the dataset {dataset}. Its accuracies say nothing about ImageNet; they show "
        "that the chain works. Counts, and speeds of full-width networks on the named device, do not depend on images.",
    )


def _facts(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    dataset = provenance["dataset"]
    images = ", ".join(f"{dataset[split]['n_images']:,} {split}" for split in ("train", "val") if split in dataset)
    versions = provenance["environment"]
    shown = ("python", "torch", "torchvision", "snakemake", "system")
    return [
        ("dataset", f"{dataset['dataset']} ({images} images, {dataset['num_classes']} classes)"),
        ("dataset SHA-256", dataset["dataset_sha256"]),
        ("weights", f"{len(provenance['weights'])} files"),
        ("notes on weights", _notes(provenance["weights"].values()) or "none"),
        ("devices", ", ".join(provenance["devices"]) or "none"),
        ("software", ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)),
    ]


def _notes(weights: Iterable[dict[str, Any]]) -> str:
    """Each distinct note of the weights files, after the number of files that carry it."""
    counts = Counter(entry["note"] for entry in weights if entry.get("note"))
    return "; ".join(f"{count} x {note}" for note, count in sorted(counts.items()))


def _measured(results: Path) -> Any:
    from markupsafe import Markup

    columns = {
        "accuracy": (
            "Accuracy",
            "Top-1 and top-5 of both forms, with the 95 % Wilson interval of top-1 over the validation images.",
            [
                "model",
                "dataset",
                "width",
                "num_classes",
                "recipe",
                "seed",
                "form",
                "protocol",
                "n_images",
                "top1_pct",
                "top1_low_pct",
                "top1_high_pct",
                "top5_pct",
            ],
        ),
        "segmentation": (
            "Segmentation",
            "Mean IoU over the classes and share of right pixels, with the bootstrap 95 % interval over the images.",
            [
                "model",
                "width",
                "recipe",
                "seed",
                "form",
                "protocol",
                "n_images",
                "mean_iou_pct",
                "mean_iou_low_pct",
                "mean_iou_high_pct",
                "pixel_accuracy_pct",
            ],
        ),
        "reparameterization": (
            "Certificates of the conversion",
            "float64: largest difference of the logits of both forms over the largest logit; the deploy file equals "
            "the float64 conversion rounded to float32; float32: the same difference for the two files.",
            [
                "model",
                "dataset",
                "width",
                "seed",
                "float64_max_relative_error",
                "file_matches_conversion",
                "float32_max_relative_error",
                "prediction_flips",
                "n_inputs",
                "train_params",
                "deploy_params",
                "passed",
            ],
        ),
        "speed": (
            "Speed",
            "Median examples per second with the bootstrap 95 % interval of the median, and the 10th and 90th "
            "percentiles of single samples; only rows of one run compare.",
            [
                "model",
                "width",
                "form",
                "device",
                "precision",
                "memory_format",
                "backend",
                "batch_size",
                "input_px",
                "examples_per_s",
                "low_examples_per_s",
                "high_examples_per_s",
                "p10_examples_per_s",
                "p90_examples_per_s",
                "n_samples",
                "flags",
            ],
        ),
    }
    for table, (heading, note, names) in columns.items():
        path = results / f"{table}.csv"
        if path.exists():
            rows = [[row[name] for name in names] for row in read_rows(path, table)]
            yield table, heading, Markup(rows_table(names, rows)), note


def _embedded(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; make the figures first") from None
