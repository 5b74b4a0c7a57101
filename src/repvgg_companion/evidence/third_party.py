"""Strict readers of what others published: speeds, accuracies of released weights, and independent trainings.

Each row must name a known model, device, form, recipe and unit, and no row may appear twice; otherwise one sentence
names the file and the line, and nothing is read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from repvgg_companion.errors import CompanionError, located
from repvgg_companion.models.names import require_model
from repvgg_companion.paper.printed import Facts, read_facts

SPEED_FILE, ACCURACY_FILE, TIMM_FILE = "third_party_speed.csv", "third_party_accuracy.csv", "timm_reference.csv"
DEVICES = {
    "rtx3090": "RTX 3090",
    "rtx4090": "RTX 4090",
    "4090": "RTX 4090",
    "5090": "RTX 5090",
    "pro6000maxq": "RTX PRO 6000 Max-Q",
    "i9_10940x": "Core i9-10940X",
    "i7_12700h": "Core i7-12700H",
}
"""Names of devices in timm's file names, and ours for them."""
REEVALUATED, RETRAINED, OTHER_BASELINE = "re-evaluated", "retrained", "other baseline"
BY_AUTHORS = "retrained by the authors with the public script"
KINDS = {
    "official weights, re-evaluated": REEVALUATED,
    "official RepVGG weights, re-evaluated": REEVALUATED,
    "retrained from scratch by third party": RETRAINED,
    "retrained by a user": RETRAINED,
    "retrained by a user in another framework": RETRAINED,
    "BaseCls weights": RETRAINED,
    BY_AUTHORS: RETRAINED,
    "public weights of the same architecture, NOT the baseline trained for the paper": OTHER_BASELINE,
}
"""What a row's `kind` means; the last one is a training of a baseline that is not the paper's."""
_MODEL_FORMS = {"training": "train", "inference": "deploy", "inference (converted)": "deploy"}
_SPEED_FORMS = ("as built", "train", "deploy")
_PRECISIONS = ("fp32", "amp-fp16", "amp-bf16", "bf16")
_BACKENDS = ("eager", "compile")
_FORMATS = ("contiguous", "channels_last")
_RECIPES = ("", "120-epochs", "200-epochs", "other")
TIMM_SOURCE = "timm, results/"
MOST = 1e9
"""No published speed or size is as large."""
VALIDATION_IMAGES = 50_000
"""timm's accuracies are multiples of 1 / 50 000, ImageNet's whole validation set."""

_PARAMS_ROUNDING = 0.02
"""The paper cuts to 0.01 million, timm rounds to it."""
_TABLE_COLUMNS = ("published", "device", "precision", "memory_format", "torch", "compute_library", "backend")
_SPEED_COLUMNS = (
    "source_file", "published", "device", "precision", "memory_format", "torch", "compute_library", "backend", "model",
    "timm_name", "form", "input_px", "batch_size", "images_per_s", "params_m", "gmacs",
)  # fmt: skip
_ACCURACY_COLUMNS = (
    "model", "source", "kind", "model_form", "input_px", "top1_pct", "top5_pct", "recipe", "n_images", "note",
)  # fmt: skip
_TIMM_COLUMNS = (
    "model", "timm_name", "kind", "img_size_px", "crop_pct", "interpolation", "top1_pct", "top5_pct",
    "real_labels_top1_pct", "real_labels_top5_pct", "param_count_m_training_form", "paper_or_readme_top1_pct",
    "delta_top1_points",
)  # fmt: skip


@dataclass(frozen=True)
class PublishedSpeed:
    """One row of `third_party_speed.csv`: images/s of one network; `form` is `train`, `deploy` or `as built`.

    `params_m` is in millions as timm counts them, `line` is the line of the file.
    """

    line: int
    source_file: str
    published: str
    device: str
    precision: str
    memory_format: str
    torch: str
    backend: str
    model: str
    form: str
    input_px: int
    batch_size: int
    images_per_s: float
    params_m: float

    @property
    def setting(self) -> str:
        """`amp-fp16, eager, contiguous, torch 2.9.1`: the setting without the device."""
        return f"{self.precision}, {self.backend}, {self.memory_format}, torch {self.torch}"


@dataclass(frozen=True)
class PublishedAccuracy:
    """One evaluation by others: top-1 in percent, and the number of images where it is known."""

    file: str
    line: int
    model: str
    source: str
    kind: str
    form: str
    input_px: int
    top1_pct: float
    recipe: str
    n_images: int | None
    note: str
    by_authors: bool = False


Row = Mapping[str, str]


def read_speeds(folder: str | Path) -> list[PublishedSpeed]:
    """The rows of `third_party_speed.csv`; raises CompanionError with file and line for a row that does not fit."""
    path = Path(folder) / SPEED_FILE
    rows: list[PublishedSpeed] = []
    tables: dict[str, tuple[int, Row]] = {}
    converted = cache(partial(_converted_m, Facts(Path(folder))))
    for line, row in _strict(path, _SPEED_COLUMNS, ("source_file", "model", "input_px")):
        where = f"{path} line {line}"
        _text(where, row, "source_file", "published", "torch")
        _known(where, row, "device", DEVICES)
        for column, allowed in (("precision", _PRECISIONS), ("memory_format", _FORMATS), ("backend", _BACKENDS),
                                ("form", _SPEED_FORMS)):  # fmt: skip
            _known(where, row, column, allowed)
        is_repvgg = _model(where, row).startswith("RepVGG")
        if is_repvgg == (row["form"] == "as built"):
            raise CompanionError(f"{where}: {row['model']} cannot have the form {row['form']!r}")
        _same_table(where, row, tables)
        rows.append(
            PublishedSpeed(
                line, row["source_file"], row["published"], DEVICES[row["device"]], row["precision"],
                row["memory_format"], row["torch"], row["backend"], row["model"], row["form"],
                _count(where, row, "input_px"), _count(where, row, "batch_size"),
                _amount(where, row, "images_per_s"), _amount(where, row, "params_m"),
            )
        )  # fmt: skip
        if is_repvgg:
            _require_form(where, rows[-1], converted(row["model"]))
    return rows


def _same_table(where: str, row: Row, tables: dict[str, tuple[int, Row]]) -> None:
    """All rows of one published file share device, precision, engine and versions."""
    line, first = tables.setdefault(row["source_file"], (int(where.rpartition(" ")[2]), row))
    for column in _TABLE_COLUMNS:
        if row[column] != first[column]:
            raise CompanionError(
                f"{where}: {column} {row[column]!r} is not the {first[column]!r} that line {line} has for the same "
                "source_file; give another table its own source_file"
            )


def _require_form(where: str, row: PublishedSpeed, converted_m: float) -> None:
    """A RepVGG was timed in its deploy form where its parameters are those of this form, else in its train form."""
    is_converted = abs(row.params_m - converted_m) <= _PARAMS_ROUNDING
    if is_converted != (row.form == "deploy"):
        raise CompanionError(
            f"{where}: form is {row.form!r}, but {row.model} has {converted_m:.2f} million parameters in its deploy "
            f"form and params_m is {row.params_m:g}; give the form that was timed"
        )


def _converted_m(facts: Facts, model: str) -> float:
    """Parameters of the deploy form in millions, printed or counted."""
    row = facts.row("table4", model) or facts.row("table5", model)
    if row is not None:
        return float(row["params_m"])
    from repvgg_companion.complexity.count_complexity import count_model

    return count_model(model).params / 1e6


def read_accuracies(folder: str | Path) -> list[PublishedAccuracy]:
    """The rows of `third_party_accuracy.csv` and `timm_reference.csv`; raises CompanionError as `read_speeds` does."""
    rows = [*_third_party(Path(folder) / ACCURACY_FILE), *_timm(Path(folder) / TIMM_FILE)]
    released = {row["model"] for row in Facts(Path(folder)).table("released")}
    seen: dict[tuple, PublishedAccuracy] = {}
    for row in rows:
        where = f"{Path(folder) / row.file} line {row.line}"
        if row.kind == REEVALUATED and row.model not in released:
            raise CompanionError(f"{where}: the authors released no weights of {row.model}; give another kind")
        other = seen.setdefault((row.source, row.kind, row.by_authors, row.form, row.model, row.input_px), row)
        if other is not row:
            raise CompanionError(
                f"{where}: {row.source} has {row.model} at {row.input_px} px already on line {other.line}"
            )
    return rows


def _third_party(path: Path) -> list[PublishedAccuracy]:
    rows = []
    for line, row in _strict(path, _ACCURACY_COLUMNS, ("model", "source", "kind", "model_form", "input_px")):
        where = f"{path} line {line}"
        _known(where, row, "kind", KINDS)
        _known(where, row, "model_form", _MODEL_FORMS)
        _known(where, row, "recipe", _RECIPES)
        _text(where, row, "source")
        images = _count(where, row, "n_images") if row["n_images"] else None
        if images is not None and images > VALIDATION_IMAGES:
            raise CompanionError(f"{where}: n_images {images} is more than ImageNet's {VALIDATION_IMAGES}")
        rows.append(
            PublishedAccuracy(
                path.name, line, _model(where, row), row["source"], KINDS[row["kind"]],
                _MODEL_FORMS[row["model_form"]], _count(where, row, "input_px"), _percent(where, row),
                row["recipe"], images, row["note"], row["kind"] == BY_AUTHORS,
            )
        )  # fmt: skip
    return rows


def _timm(path: Path) -> list[PublishedAccuracy]:
    rows = []
    for line, row in _strict(path, _TIMM_COLUMNS, ("timm_name", "img_size_px")):
        where = f"{path} line {line}"
        _known(where, row, "kind", KINDS)
        kind = KINDS[row["kind"]]
        note = f"public weights {row['timm_name']}" if kind == OTHER_BASELINE else ""
        rows.append(
            PublishedAccuracy(
                path.name, line, _model(where, row), TIMM_SOURCE, kind, "train", _count(where, row, "img_size_px"),
                _percent(where, row), "other" if kind == OTHER_BASELINE else "", VALIDATION_IMAGES, note,
            )
        )  # fmt: skip
    return rows


def _strict(path: Path, columns: Sequence[str], key: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    header, rows = read_facts(path)
    if wrong := [name for name in header if name not in columns] or [name for name in columns if name not in header]:
        raise CompanionError(
            f"{path} line 1: column or unit {wrong[0]!r} is not as expected; the columns are {', '.join(columns)}"
        )
    seen: dict[tuple[str, ...], int] = {}
    for line, row in rows:
        identity = tuple(row[name] for name in key)
        if identity in seen:
            raise CompanionError(f"{path} line {line}: {', '.join(identity)} is already on line {seen[identity]}")
        seen[identity] = line
    return rows


def _known(where: str, row: Row, column: str, allowed: Mapping[str, object] | Sequence[str]) -> None:
    if row[column] not in allowed:
        names = ", ".join(name or "(empty)" for name in allowed)
        raise CompanionError(f"{where}: {column} {row[column]!r} is not known; use one of {names}")


def _model(where: str, row: Row) -> str:
    with located(where):
        return require_model(row["model"]).name


def _count(where: str, row: Row, column: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]*", row[column]):
        raise CompanionError(f"{where}: {column} {row[column]!r} is not a whole number above 0")
    return int(row[column])


def _amount(where: str, row: Row, column: str) -> float:
    value = float(row[column]) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", row[column]) else 0.0
    if not 0 < value < MOST:
        raise CompanionError(f"{where}: {column} {row[column]!r} is not a number above 0")
    return value


def _text(where: str, row: Row, *columns: str) -> None:
    for column in columns:
        if not row[column].strip():
            raise CompanionError(f"{where}: {column} is empty; say who published what")


def _percent(where: str, row: Row) -> float:
    value = _amount(where, row, "top1_pct")
    if not 1 < value <= 100:
        raise CompanionError(f"{where}: top1_pct {row['top1_pct']!r} is not a percentage from 1 to 100")
    return value
