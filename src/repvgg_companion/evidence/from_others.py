"""Rows of what others published: speeds of other devices, re-evaluations of released weights, and retrainings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repvgg_companion.evidence.deciding import (
    Answer,
    Claim,
    Offer,
    Published,
    RowOrigin,
    ledger_row,
    published_answers,
    used_answers,
)
from repvgg_companion.evidence.evidence_classes import MEASURED_BY_OTHERS, REEVALUATED, RETRAINED
from repvgg_companion.evidence.third_party import (
    ACCURACY_FILE,
    OTHER_BASELINE,
    SPEED_FILE,
    PublishedAccuracy,
    PublishedSpeed,
)
from repvgg_companion.evidence.third_party import RETRAINED as RETRAINED_KIND
from repvgg_companion.models.names import MODELS
from repvgg_companion.paper.grammar import Check, NotAvailable, Quantity, parse
from repvgg_companion.paper.ours import Reading, grouped
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import INCONCLUSIVE, MET, NOT_MET, Finding

_RESIZED = "EfficientNet-B3"
_SAME_NETWORK_POINTS = 0.05
"""Points of top-1 within which two evaluations of the same weights count as equal: the claims' own tolerance."""


@dataclass(frozen=True)
class SpeedTable(Published):
    """One of timm's tables: the speeds of one device and engine, EfficientNet-B3 at one of its input sizes."""

    by_model: Mapping[str, PublishedSpeed] = field(default_factory=dict)

    def offer(self, quantity: Quantity) -> Offer:
        """The published speed; the train form does not answer a claim about the converted network."""
        row = self.by_model.get(quantity.subject)
        if quantity.name != "speed" or row is None:
            raise NotAvailable(f"no {quantity.name} of {quantity.subject} is in this table")
        evidence = f"paper/{SPEED_FILE} line {row.line}"
        if row.form == "train" and quantity.form == "deploy":
            why = f"the speed of {row.model} is that of its train form ({row.params_m:g} M parameters)"
            return Offer(row.images_per_s, evidence, f"{why}; the claim is about the converted network")
        if row.form == "deploy" and quantity.form == "train":
            raise NotAvailable(f"{row.model} is in this table in its deploy form only")
        return Offer(row.images_per_s, evidence)

    def read(self, quantity: Quantity) -> Reading:
        """Like every published source, except that FLOPs belong to the input size that was timed."""
        row = self.by_model.get(quantity.subject)
        if quantity.name == "flops" and row is not None and row.input_px != MODELS[row.model].input_px:
            from repvgg_companion.complexity.count_complexity import count_model

            flops = count_model(row.model, input_px=row.input_px).flops
            return Reading(float(flops), (), (f"count of {row.model} at {row.input_px} px",), exact=True)
        return super().read(quantity)

    def differs(self, models: Iterable[str]) -> list[str]:
        """What differs from the paper's protocol in the rows of these networks."""
        rows = [self.by_model[name] for name in models if name in self.by_model]
        first = rows[0]
        found = [{"amp-fp16": "mixed precision (fp16)", "amp-bf16": "mixed precision (bf16)"}.get(first.precision, "")]
        if first.precision == "bf16":
            found.append("bf16")
        batches = sorted({row.batch_size for row in rows})
        found.append(f"batch {' and '.join(map(str, batches))} instead of 128")
        found.append("compiled by torch.compile" if first.backend == "compile" else "")
        if any(row.form == "as built" for row in rows):
            found.append("batch norms of the baselines not folded")
        if moved := [row.model for row in rows if row.model in ("ResNet-50", "ResNet-101", "ResNet-152")]:
            found.append(f"bottleneck stride on the 3x3 convolution ({', '.join(moved)})")
        found += [f"{_RESIZED} at {row.input_px} px instead of 300" for row in rows if row.model == _RESIZED]
        if trained := [row.model for row in rows if row.form == "train"]:
            found.append(f"train form, by the parameter count ({', '.join(trained)})")
        return [text for text in found if text]


def speed_tables(facts: Facts, empty: Any, rows: Sequence[PublishedSpeed]) -> list[SpeedTable]:
    """One table for each source file and input size of EfficientNet-B3; `empty` are results without rows."""
    tables = []
    for source in sorted({row.source_file for row in rows}):
        mine = [row for row in rows if row.source_file == source]
        for px in sorted({row.input_px for row in mine if row.model == _RESIZED}, reverse=True) or [0]:
            chosen = {row.model: row for row in mine if row.model != _RESIZED or row.input_px == px}
            tables.append(SpeedTable(facts, empty, name=source, by_model=chosen))
    return tables


def speed_rows(claim: Claim, tables: Sequence[SpeedTable]) -> Iterator[dict[str, Any]]:
    """The rows of one claim, one for each table that has its networks."""
    terms = parse(claim["condition"])
    seen = set()
    for table in tables:
        converted = all(row.form != "train" for row in table.by_model.values())
        asked = [term for term in terms if not isinstance(term, Check) or (converted and term.of_speeds)]
        answers = published_answers(asked, table)
        used = used_answers(answers)
        names = {f"paper/{SPEED_FILE} line {row.line}": row.model for row in table.by_model.values()}
        lines = [line for answer in used for line in answer.finding.evidence if line in names]
        models = dict.fromkeys(names[line] for line in lines)
        if not used or (table.name, _RESIZED not in models) in seen:
            continue
        seen.add((table.name, True))  # networks other than EfficientNet-B3 are the same in both tables of a file
        first = next(iter(table.by_model.values()))
        setting = f"{first.setting}, published {first.published}"
        if _RESIZED in models:
            setting += f", {_RESIZED} at {table.by_model[_RESIZED].input_px} px"
        origin = RowOrigin(MEASURED_BY_OTHERS, f"timm, {table.name}", setting, first.device, table.differs(models))
        yield from ledger_row(claim, origin, answers, len(terms))


@dataclass(frozen=True)
class AccuracyList(Published):
    """The accuracies of one source: all re-evaluations or all retrainings, of one model form."""

    retrained: bool = False
    rows: Sequence[PublishedAccuracy] = field(default=())

    def offer(self, quantity: Quantity) -> Offer:
        """The published top-1 at the claim's input size; other recipes and other baselines do not decide."""
        spec = MODELS.get(quantity.subject)
        wanted_px = quantity.input_px or (spec.test_px if spec else 224)
        row = next((one for one in self.rows if (one.model, one.input_px) == (quantity.subject, wanted_px)), None)
        origin = "retrained" if self.retrained else "released"
        if quantity.name != "top1" or row is None or quantity.origin not in (None, origin):
            raise NotAvailable(f"no {quantity.name} of {quantity.subject} is in this source")
        return Offer(row.top1_pct, f"paper/{row.file} line {row.line}", self._off(row, quantity), row.n_images)

    def _off(self, row: PublishedAccuracy, quantity: Quantity) -> str:
        if row.kind == OTHER_BASELINE:
            return f"{row.model} is not the paper's baseline but another training ({row.note})"
        if quantity.recipe is None:
            return ""
        if self.retrained:
            followed = f"{row.model} was trained by another recipe than {quantity.recipe}"
            return "" if row.recipe == quantity.recipe else f"{followed} ({row.note or row.recipe})"
        recipe = self.facts.recipe_of_released(row.model)
        return "" if recipe == quantity.recipe else f"the released weights of {row.model} are those of {recipe}"


def accuracy_lists(facts: Facts, empty: Any, rows: Sequence[PublishedAccuracy]) -> list[AccuracyList]:
    """One list for each source, kind and model form; trainings by the authors belong to the class *printed*."""
    of_others = [row for row in rows if not row.by_authors]
    groups = grouped(of_others, lambda row: (row.source, row.kind == RETRAINED_KIND, row.form))
    return [
        AccuracyList(facts, empty, name=source, retrained=retrained, rows=tuple(members))
        for (source, retrained, _), members in sorted(groups.items())
    ]


def accuracy_evidence(claim: Claim, lists: Sequence[AccuracyList]) -> Iterator[dict[str, Any]]:
    """The rows of one claim, one for each source that has its accuracies."""
    terms = parse(claim["condition"])
    tolerances = {False: claim["tolerance_released"], True: claim["tolerance_retrained"]}
    for source in lists:
        margin = tolerances[source.retrained]
        asked = [term for term in terms if not isinstance(term, Check)]
        answers = published_answers(asked, source, float(margin) if margin else None, fixed=not source.retrained)
        models = {part.subject for answer in used_answers(answers) for part in answer.term.quantities}
        notes = dict.fromkeys(f"{row.model}: {row.note}" for row in source.rows if row.model in models and row.note)
        form = "converted form" if source.rows[0].form == "deploy" else "training form"
        origin = RowOrigin(RETRAINED if source.retrained else REEVALUATED, source.name, form, differs=list(notes))
        yield from ledger_row(claim, origin, answers, len(terms))


def conversion_row(claim: Claim, lists: Sequence[AccuracyList]) -> Iterator[dict[str, Any]]:
    """For the claim that conversion keeps the function: sources that evaluated both forms of the same weights."""
    (term,) = parse(claim["condition"])
    by_source: dict[str, list[PublishedAccuracy]] = {}
    for source in lists:
        if not source.retrained:
            by_source.setdefault(source.name, []).extend(source.rows)
    for name, rows in by_source.items():
        forms = {(row.model, row.form): row for row in rows}
        pairs = [(row, forms[row.model, "deploy"]) for row in rows
                 if row.form == "train" and (row.model, "deploy") in forms]  # fmt: skip
        if pairs:
            largest = max(abs(train.top1_pct - deploy.top1_pct) for train, deploy in pairs)
            number = MET if largest <= _SAME_NETWORK_POINTS else NOT_MET
            value = f"top-1 of both forms differs by at most {largest:.3f} points ({len(pairs)} networks)"
            lines = sorted(row.line for pair in pairs for row in pair)
            evidence = f"paper/{ACCURACY_FILE} lines {lines[0]} to {lines[-1]}"
            finding = Finding(number, INCONCLUSIVE, value, reason="accuracies only, not outputs", evidence=(evidence,))
            yield from ledger_row(claim, RowOrigin(REEVALUATED, name, "both forms"), [Answer(term, finding)], 1)
