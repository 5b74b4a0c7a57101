"""The second evaluation of what is printed and of what others published: every row of these classes, all columns."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from second_reading import NO_SAMPLE, Answer, Found, Quantity, Row, Term, answer, ranked, read, row_of, terms_of

from repvgg_companion.complexity.count_complexity import count_model
from repvgg_companion.models.names import MODELS

PAPER_FILES = {"1": "table1_kernel_size.csv", "4": "table4_120epochs.csv", "5": "table5_200epochs.csv",
               "6": "table6_branch_ablation.csv", "7": "table7_variants_ablation.csv", "8": "table8_cityscapes.csv",
               "released": "released_checkpoints.csv", "claims": "claims.csv"}  # fmt: skip
DEVICE_NAMES = {"rtx3090": "RTX 3090", "rtx4090": "RTX 4090", "4090": "RTX 4090", "5090": "RTX 5090",
                "pro6000maxq": "RTX PRO 6000 Max-Q", "i9_10940x": "Core i9-10940X",
                "i7_12700h": "Core i7-12700H"}  # fmt: skip
BOTTLENECK_STRIDE = ("ResNet-50", "ResNet-101", "ResNet-152")
RESIZED = "EfficientNet-B3"


@cache
def _read_once(path: Path) -> list[Row]:
    return read(path)


@dataclass(frozen=True)
class Paper:
    """The folder `paper`, each file read once."""

    folder: Path

    def table(self, name: str) -> list[Row]:
        return _read_once(self.folder / PAPER_FILES.get(name, name))

    def cell(self, name: str, model: str, column: str) -> float | None:
        key = "kernel_size" if name == "1" else "model"
        row = next((row for row in self.table(name) if row[key] == model), {})
        return float(row[column]) if row.get(column) else None

    def recipe_of_released(self, model: str) -> str | None:
        return next((row["recipe"] for row in self.table("released") if row["model"] == model), None)

    def printed(self, quantity: Quantity) -> float | None:
        """The printed number of a quantity, from Tables 1 to 8 or the list of released weights."""
        model = quantity.model
        if quantity.name == "density":
            return self.cell("1", model, "density_tflops")
        if quantity.name == "miou":
            return self.cell("8", model, "mean_iou_pct")
        if quantity.name == "top1":
            return self._top1(quantity)
        if quantity.name == "speed" and quantity.form == "train":
            return self.cell("6", model, "speed_without_reparam_examples_per_s")
        if quantity.name == "speed" and model.startswith("PSPNet"):
            return self.cell("8", model, "speed_examples_per_s")
        column = {"speed": "speed_examples_per_s", "params": "params_m", "flops": "flops_b", "wino": "wino_muls_b"}
        if quantity.name not in column or quantity.form == "train":
            return None
        return self.cell("4", model, column[quantity.name]) or self.cell("5", model, column[quantity.name])

    def _top1(self, quantity: Quantity) -> float | None:
        if px := quantity.word("px"):
            rows = [
                row for row in self.table("released") if (row["model"], f"{row['test_px']}px") == (quantity.model, px)
            ]
            return float(rows[0]["top1_official_pct"]) if rows else None
        epochs = "200" if quantity.word("-epochs") == "200-epochs" else "120"
        return next((float(row["top1_pct"]) for name in "4567" for row in self.table(name)
                     if (row["model"], row["epochs"]) == (quantity.model, epochs)), None)  # fmt: skip


@cache
def counted(quantity: Quantity, input_px: int | None = None) -> Found | None:
    """A count of a network, at the paper's input size or another one."""
    found = count_model(quantity.model, form=quantity.form, input_px=input_px)
    value = {"params": found.params, "flops": found.flops, "wino": found.wino_muls}[quantity.name]
    where = f"at {input_px} px" if input_px else quantity.form
    return None if value is None else Found(float(value), f"count of {quantity.model} {where}")


# --- printed ----------------------------------------------------------------------------------------------------------
def printed_rows(paper: Paper) -> Iterator[Row]:
    """The rows of the class *printed*."""

    def find(quantity: Quantity) -> Found | None:
        if "retrained" in quantity.words:
            for line, row in enumerate(paper.table("third_party_accuracy.csv"), start=2):
                if "authors" in row["kind"] and row["model"] == quantity.model:
                    return Found(float(row["top1_pct"]), f"paper/third_party_accuracy.csv line {line}")
        value = paper.printed(quantity)
        return None if value is None else Found(value, f"printed {quantity}")

    for claim in paper.table("claims"):
        terms = terms_of(claim["condition_on_printed_numbers"] or claim["condition"])
        margin = float(claim["tolerance_retrained"]) if claim["id"] == "P03" else 0.0
        answers = [_printed_check(term, paper) if term.check else answer(term, find, margin=margin) for term in terms]
        speeds = any(quantity.name in ("speed", "density") for term in terms for quantity in term.quantities)
        tables = re.match(r"\d(;\d)*", claim["tables"])
        where = f"Table {tables[0].replace(';', ', ')}" if tables else "text"
        source = "official README" if claim["where_in_paper"].startswith("README") else f"the paper, {where}"
        row = row_of(claim, answers, len(terms), evidence_class="printed", source=source,
                     setting="fp32" if speeds else "", device="GTX 1080 Ti" if speeds else "")  # fmt: skip
        if row:
            yield row


def _printed_check(term: Term, paper: Paper) -> Answer | None:
    if term.check == "wino-ranks-speed":
        names = [row["model"] for row in paper.table("4")]
        points = {name: tuple(paper.printed(Quantity(kind, name)) for kind in ("speed", "flops", "wino"))
                  for name in names}  # fmt: skip
        points = {name: numbers for name, numbers in points.items() if None not in numbers}
        number, value = ranked(list(points.values()))
        evidence = tuple(f"printed speed({name})" for name in points)
        return Answer(term.text, number, "inconclusive", value, reason=f"{len(points)} {NO_SAMPLE}", evidence=evidence)
    if term.check == "every-baseline-matched":
        unmatched, evidence = [], []
        for table, recipe in (("4", "120-epochs"), ("5", "200-epochs")):
            points = {row["model"]: (float(row["speed_examples_per_s"]), float(row["top1_pct"]))
                      for row in paper.table(table)}  # fmt: skip
            ours = [point for name, point in points.items() if name.startswith("RepVGG")]
            unmatched += [name for name, (speed, top1) in points.items() if not name.startswith("RepVGG")
                          and not any(fast >= speed and exact + 0.05 >= top1 for fast, exact in ours)]  # fmt: skip
            evidence += [f"printed speed({name})" for name in points]
            evidence += [f"printed top1({name}, {recipe})" for name in points]
        reason = f"no RepVGG matches {', '.join(unmatched)}" if unmatched else "no joint interval is defined"
        number = "not met" if unmatched else "met"
        return Answer(term.text, number, "inconclusive", f"{len(unmatched)} baselines unmatched", reason=reason,
                      evidence=tuple(evidence))  # fmt: skip
    return None


# --- speeds that others published -------------------------------------------------------------------------------------
def speed_tables(paper: Paper) -> Iterator[tuple[str, dict[str, tuple[int, Row]]]]:
    """The name of each published table with its rows and their lines by network; with each size of EfficientNet-B3."""
    lines = list(enumerate(paper.table("third_party_speed.csv"), start=2))
    for source in sorted({row["source_file"] for _, row in lines}):
        mine = [(line, row) for line, row in lines if row["source_file"] == source]
        sizes = sorted({int(row["input_px"]) for _, row in mine if row["model"] == RESIZED}, reverse=True) or [0]
        for px in sizes:
            yield source, {row["model"]: (line, row) for line, row in mine
                           if row["model"] != RESIZED or int(row["input_px"]) == px}  # fmt: skip


def speed_rows(paper: Paper) -> Iterator[Row]:
    """The rows of the class *measured by others*."""
    order = [row["model"] for row in paper.table("4")]
    for claim in paper.table("claims"):
        done = set()
        for source, table in speed_tables(paper):
            row = _speed_row(claim, source, table, order)
            key = (source, f"{RESIZED} at" in row["setting"] and row["setting"]) if row else None
            if row and key not in done:
                done |= {key}
                yield row


def _speed_row(claim: Row, source: str, table: dict[str, tuple[int, Row]], order: list[str]) -> Row | None:
    def find(quantity: Quantity) -> Found | None:
        line, row = table.get(quantity.model, (0, {}))
        if quantity.name == "flops" and row and int(row["input_px"]) != MODELS[quantity.model].input_px:
            return counted(quantity, int(row["input_px"]))
        if quantity.is_count:
            return counted(quantity)
        if quantity.name != "speed" or not row or (row["form"], quantity.form) == ("deploy", "train"):
            return None
        off = ""
        if row["form"] == "train" and quantity.form == "deploy":
            off = (f"the speed of {quantity.model} is that of its train form ({float(row['params_m']):g} M parameters);"
                   " the claim is about the converted network")  # fmt: skip
        return Found(float(row["images_per_s"]), f"paper/third_party_speed.csv line {line}", off)

    terms = terms_of(claim["condition"])
    answers = [
        _ranking(term, table, order) if term.check else answer(term, find) for term in terms if not term.is_count
    ]
    row = row_of(claim, answers, len(terms), evidence_class="measured by others", source=f"timm, {source}")
    if row is None:
        return None
    lines = dict(table.values())
    used = [lines[int(line)] for line in re.findall(r"third_party_speed\.csv line (\d+)", row["evidence"])]
    first = next(iter(table.values()))[1]
    setting = "{precision}, {backend}, {memory_format}, torch {torch}, published {published}".format(**first)
    sizes = [one["input_px"] for one in used if one["model"] == RESIZED]
    setting += f", {RESIZED} at {sizes[0]} px" if sizes else ""
    return row | {"setting": setting, "device": DEVICE_NAMES[first["device"]], "differs": _differs(used)}


def _ranking(term: Term, table: dict[str, tuple[int, Row]], order: list[str]) -> Answer | None:
    if term.check != "wino-ranks-speed" or any(row["form"] == "train" for _, row in table.values()):
        return None
    points, evidence = [], []
    for fact in (name for name in order if name in table):
        line, row = table[fact]
        counts = [counted(Quantity(kind, fact)) for kind in ("flops", "wino")]
        if all(counts):
            points.append((float(row["images_per_s"]), *(one.value for one in counts)))
            evidence.append(f"paper/third_party_speed.csv line {line}")
    if len(points) < 8:
        return None
    number, value = ranked(points)
    reason = f"{len(points)} {NO_SAMPLE}"
    return Answer(term.text, number, "inconclusive", value, reason=reason, evidence=tuple(evidence))


def _differs(rows: list[Row]) -> str:
    first = rows[0]
    batches = " and ".join(str(size) for size in sorted({int(row["batch_size"]) for row in rows}))
    moved = [row["model"] for row in rows if row["model"] in BOTTLENECK_STRIDE]
    resized = [row["input_px"] for row in rows if row["model"] == RESIZED]
    train = [row["model"] for row in rows if row["form"] == "train"]
    found = [
        {"amp-fp16": "mixed precision (fp16)", "amp-bf16": "mixed precision (bf16)", "bf16": "bf16"}.get(
            first["precision"]
        ),
        f"batch {batches} instead of 128",
        "compiled by torch.compile" if first["backend"] == "compile" else "",
        "batch norms of the baselines not folded" if any(row["form"] == "as built" for row in rows) else "",
        f"bottleneck stride on the 3x3 convolution ({', '.join(moved)})" if moved else "",
        f"{RESIZED} at {resized[0]} px instead of 300" if resized else "",
        f"train form, by the parameter count ({', '.join(train)})" if train else "",
    ]
    return "; ".join(filter(None, found))


# --- accuracies that others published ---------------------------------------------------------------------------------
def accuracy_rows(paper: Paper) -> Iterator[Row]:
    """The rows of the classes *re-evaluated by others* and *retrained by others*."""
    for (released, source, form), rows in _accuracy_sources(paper).items():
        find = partial(_top1, rows, paper, released)
        kind = "re-evaluated by others" if released else "retrained by others"
        for claim in paper.table("claims"):
            terms = terms_of(claim["condition"])
            margin = float(claim["tolerance_released" if released else "tolerance_retrained"] or 0)
            answers = {
                term: answer(term, find, margin=margin, fixed=released)
                for term in terms
                if not term.check and not term.is_count
            }
            told = {term: one for term, one in answers.items() if one}
            used = [term for term, one in told.items() if not one.shown] or list(told)
            models = {quantity.model for term in used for quantity in term.quantities}
            notes = dict.fromkeys(f"{row['model']}: {row['note']}" for _, _, row in rows
                                  if row["model"] in models and row["note"])  # fmt: skip
            row = row_of(claim, list(told.values()), len(terms), evidence_class=kind, source=source,
                         setting=f"{form} form", differs="; ".join(notes))  # fmt: skip
            if row:
                yield row
    yield from _both_forms(paper)


def _accuracy_sources(paper: Paper) -> dict[tuple[bool, str, str], list[tuple[str, int, Row]]]:
    """File, line and row of each published accuracy, by whether the weights were released, by source and form."""
    groups: dict[tuple[bool, str, str], list[tuple[str, int, Row]]] = {}
    for line, row in enumerate(paper.table("third_party_accuracy.csv"), start=2):
        if "authors" not in row["kind"]:
            form = "training" if row["model_form"] == "training" else "converted"
            released = "re-evaluated" in row["kind"] or "NOT the baseline" in row["kind"]
            groups.setdefault((released, row["source"], form), []).append(("third_party_accuracy.csv", line, row))
    for line, row in enumerate(paper.table("timm_reference.csv"), start=2):
        public = "NOT the baseline" in row["kind"]
        note = f"public weights {row['timm_name']}" if public else ""
        filled = row | {"input_px": row["img_size_px"], "n_images": "50000", "note": note, "recipe": ""}
        groups.setdefault((True, "timm, results/", "training"), []).append(("timm_reference.csv", line, filled))
    return groups


def _top1(rows: list[tuple[str, int, Row]], paper: Paper, released: bool, quantity: Quantity) -> Found | None:
    if quantity.is_count:
        return counted(quantity)
    px = quantity.word("px").removesuffix("px") or str(
        MODELS[quantity.model].test_px if quantity.model in MODELS else 224
    )
    found = next((one for one in rows if (one[2]["model"], one[2]["input_px"]) == (quantity.model, px)), None)
    origin = "released" if released else "retrained"
    other_origin = {"released", "retrained"} & set(quantity.words) - {origin}
    if quantity.name != "top1" or found is None or other_origin:
        return None
    file, line, row = found
    recipe, off = quantity.word("-epochs"), ""
    if "NOT the baseline" in row["kind"]:
        off = f"{quantity.model} is not the paper's baseline but another training ({row['note']})"
    elif released and recipe and paper.recipe_of_released(quantity.model) != recipe:
        off = f"the released weights of {quantity.model} are those of {paper.recipe_of_released(quantity.model)}"
    elif not released and recipe and row["recipe"] != recipe:
        off = f"{quantity.model} was trained by another recipe than {recipe} ({row['note'] or row['recipe']})"
    n_images = int(row["n_images"]) if row["n_images"] else None
    return Found(float(row["top1_pct"]), f"paper/{file} line {line}", off, n_images)


def _both_forms(paper: Paper) -> Iterator[Row]:
    """Conversion keeps the function: sources that evaluated the train and the converted form of released weights."""
    claim = next(row for row in paper.table("claims") if "conversion-keeps-function" in row["condition"])
    pairs: dict[str, dict[str, dict[str, tuple[int, float]]]] = {}
    for (released, source, form), rows in _accuracy_sources(paper).items():
        for file, line, row in rows:
            if released and file == "third_party_accuracy.csv":
                pairs.setdefault(source, {}).setdefault(row["model"], {})[form] = (line, float(row["top1_pct"]))
    for source, models in pairs.items():
        both = [forms for forms in models.values() if len(forms) == 2]
        if both:
            most = max(abs(forms["training"][1] - forms["converted"][1]) for forms in both)
            lines = [line for forms in both for line, _ in forms.values()]
            value = f"top-1 of both forms differs by at most {most:.3f} points ({len(both)} networks)"
            told = Answer(
                claim["condition"],
                "met" if most <= 0.05 else "not met",
                "inconclusive",
                value,
                reason="accuracies only, not outputs",
                evidence=(f"paper/third_party_accuracy.csv lines {min(lines)} to {max(lines)}",),
            )
            row = row_of(claim, [told], 1, evidence_class="re-evaluated by others", source=source, setting="both forms")
            yield row or {}
