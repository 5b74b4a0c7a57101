"""The second evaluation of small studies, from the accuracies of their seeds."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from second_published import Paper
from second_reading import COLUMNS, Row, Term, read, terms_of

VERDICTS = ("opposite direction, resolved", "not resolved", "same direction, resolved")


class Pair(NamedTuple):
    """Two networks that a claim compares, the one with the higher printed accuracy first."""

    upper: str
    lower: str
    difference: float
    low: float
    high: float
    p: float
    seeds: int | None

    @property
    def verdict(self) -> str:
        return VERDICTS[1] if self.p >= 0.05 else VERDICTS[2 if self.difference > 0 else 0]


def bare(model: str) -> str:
    """The network's name without strides: `RepVGG-B0-s2.2.2.1.1_plain` is `RepVGG-B0_plain`."""
    base, underscore, variation = model.partition("_")
    return base.split("-s")[0] + underscore + variation


def short(model: str) -> str:
    model = bare(model)
    return model.split("_")[1] if "_" in model else model.removeprefix("RepVGG-")


def compared_models(term: Term) -> tuple[str, ...]:
    """The two networks whose accuracies a term compares; empty for any other term."""
    is_order = [one.name for one in term.quantities] == ["top1", "top1"]
    return tuple(one.model for one in term.quantities) if is_order else ()


def study_rows(paper: Paper, folder: Path) -> Iterator[Row]:
    """The rows of the class *small study*."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        every = list(read(path / "accuracy.csv"))
        converted = {row["model"] for row in every if row["form"] == "deploy"}
        form = {row["model"]: "deploy" if row["model"] in converted else "train" for row in every}
        rows = [row for row in every if row["form"] == form[row["model"]]]
        values: dict[str, list[float]] = {}
        for row in rows:
            values.setdefault(row["model"], []).append(float(row["top1_pct"]))
        pairs = pairs_of(values, paper)
        first = rows[0]
        setting = (f"{first['dataset']}, width {float(first['width']):g}, {first['num_classes']} classes, "
                   f"{first['input_px']} px")  # fmt: skip
        _, _, strides = first["model"].partition("_")[0].partition("-s")
        setting += f", strides {strides}" if strides else ""
        for claim in paper.table("claims"):
            terms = terms_of(claim["condition"])
            found = [(term, pair) for term in terms if len(compared_models(term)) == 2 for pair in pairs
                     if set(compared_models(term)) == {bare(pair.upper), bare(pair.lower)}]  # fmt: skip
            if found:
                evidence = [f"accuracy.csv {model} {form[model]}, {len(values[model])} seeds" for _, pair in found
                            for model in (pair.upper, pair.lower)]  # fmt: skip
                yield dict.fromkeys(COLUMNS, "") | {
                    "id": claim["id"],
                    "evidence_class": "small study",
                    "source": path.name,
                    "setting": setting,
                    "part": "whole claim" if len(found) == len(terms) else " and ".join(term.text for term, _ in found),
                    "value": "; ".join(
                        f"{pair.difference:+.2f}" + (f" [{pair.low:.4g}, {pair.high:.4g}]" if len(found) > 1 else "")
                        for _, pair in found
                    ),
                    "low": f"{found[0][1].low:.6g}",
                    "high": f"{found[0][1].high:.6g}",
                    "verdict_number": "not tested",
                    "verdict_inference": min((pair.verdict for _, pair in found), key=VERDICTS.index),
                    "reason": "; ".join(reason_of(pair, len(pairs)) for _, pair in found),
                    "differs": "other images than the paper's: the direction of the effect only",
                    "evidence": "; ".join(dict.fromkeys(evidence)),
                }


def reason_of(pair: Pair, n_pairs: int) -> str:
    text = f"{short(pair.upper)} less {short(pair.lower)}: {pair.verdict} (Holm p {pair.p:.2g} over {n_pairs} pairs)"
    return text + (f", {pair.seeds} seeds each might do" if pair.verdict == "not resolved" and pair.seeds else "")


def pairs_of(values: dict[str, list[float]], paper: Paper) -> list[Pair]:
    """All pairs with at least three seeds that claims compare; their p values are corrected together."""
    names: dict[tuple[str, str], None] = {}
    trained = {bare(model): model for model in values}
    for claim in paper.table("claims"):
        for term in terms_of(claim["condition"]):
            models = compared_models(term)
            printed = {one.model: paper.printed(one) for one in term.quantities} if models else {}
            if models and set(models) <= set(trained) and None not in printed.values():
                names[tuple(trained[model] for model in sorted(models, key=lambda model: -printed[model]))] = None
    tested = {pair: stats.ttest_ind(values[pair[0]], values[pair[1]], equal_var=False) for pair in names
              if min(len(values[model]) for model in pair) >= 3}  # fmt: skip
    order = sorted(tested, key=lambda pair: tested[pair].pvalue)
    corrected, largest = {}, 0.0
    for rank, pair in enumerate(order):
        largest = max(largest, min(1.0, tested[pair].pvalue * (len(order) - rank)))
        corrected[pair] = largest
    found = []
    for (upper, lower), result in tested.items():
        ends = result.confidence_interval(0.95)
        difference = float(np.mean(values[upper]) - np.mean(values[lower]))
        seeds = seeds_needed(difference, values[upper], values[lower], 0.05 / len(tested))
        found.append(Pair(upper, lower, difference, ends.low, ends.high, corrected[upper, lower], seeds))
    return found


def seeds_needed(difference: float, one: list[float], other: list[float], level: float) -> int | None:
    """The least number of seeds of each network whose interval at this level would leave out 0."""
    first, second = np.var(one, ddof=1), np.var(other, ddof=1)
    for n in range(3, 1001):
        freedom = (n - 1) * (first + second) ** 2 / (first**2 + second**2)
        if stats.t.isf(level / 2, freedom) * math.sqrt((first + second) / n) < abs(difference):
            return n
    return None
