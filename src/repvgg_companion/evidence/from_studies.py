"""Rows of the class *small study*: trainings of this companion on other images, under `results/studies/NAME/`.

A study gives the direction of an effect with its interval and never decides the paper's number. `study_pairs` has the
statistics, `check_studies` the layout of the folder and its checks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError, located
from repvgg_companion.evidence.deciding import Answer, Claim, RowOrigin, ledger_row
from repvgg_companion.evidence.device_folders import visible_folders
from repvgg_companion.evidence.evidence_classes import STUDY, WHOLE
from repvgg_companion.evidence.study_pairs import NOT_RESOLVED, Pair, Seeds, compared, pairs_of, variation, worst
from repvgg_companion.files import read_json
from repvgg_companion.models.names import ModelSpec, require_model
from repvgg_companion.paper.grammar import Term, parse
from repvgg_companion.paper.ours import PAPER_DATASET, Results, Row, describe_network
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.verdicts import INCONCLUSIVE, NOT_TESTED, Finding

OTHER_IMAGES = "other images than the paper's: the direction of the effect only"
_SETTING = ("dataset", "width", "num_classes", "protocol", "input_px")


@dataclass(frozen=True)
class Study:
    """One study: its rows of the judged form, all of one setting, and what they say about the paper's pairs."""

    name: str
    results: Results
    rows: Sequence[Row]
    facts: Facts

    @cached_property
    def accuracies(self) -> dict[str, Seeds]:
        """Top-1 in percent by network and seed."""
        found: dict[str, Seeds] = {}
        for row in self.rows:
            found.setdefault(row["model"], {})[row["seed"]] = row["top1_pct"]
        return found

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs of networks that claims compare."""
        return pairs_of(self.accuracies, self.facts)

    @property
    def setting(self) -> str:
        """Images, width, classes, input size and strides of their own in words."""
        first = self.rows[0]
        has_own = require_model(first["model"]).strides != ModelSpec.strides
        return describe_network(first) + (f", {_strides(first)}" if has_own else "")


def judged_form(model: str) -> str:
    """The form whose accuracy counts: deploy, or train where the network cannot be converted."""
    return "deploy" if require_model(model).convertible else "train"


def read_studies(folder: Path, facts: Facts) -> list[Study]:
    """The studies below a folder; raises CompanionError for one without rows, or whose rows do not belong together."""
    return [read_study(path, facts) for path in visible_folders(folder)]


def read_study(path: Path, facts: Facts) -> Study:
    """One study; raises CompanionError if its rows cannot be compared with each other."""
    results = Results(path)
    rows = []
    for number, row in enumerate(results.rows("accuracy"), start=2):
        with located(f"{path}/accuracy.csv line {number}"):
            if row["form"] == judged_form(row["model"]):
                rows.append(row)
    if not rows:
        raise CompanionError(f"{path}/accuracy.csv has no rows of the deploy form; a study needs its accuracies")
    first = rows[0]
    odd_recipes = _odd_recipes(path, rows)
    for number, row in enumerate(results.rows("accuracy"), start=2):
        odd = [f"{key} {row[key]} instead of {first[key]}" for key in _SETTING if row[key] != first[key]]
        if _strides(row) != _strides(first):
            odd.append(_strides(row))
        if row["recipe"] in odd_recipes:
            odd.append(f"recipe {row['recipe']} instead of {first['recipe']}")
        if odd or row["dataset"] == PAPER_DATASET:
            reason = ", ".join(odd) or f"dataset {PAPER_DATASET}"
            raise CompanionError(
                f"{path}/accuracy.csv line {number}: {row['model']} has {reason}; a study has one dataset (not "
                f"{PAPER_DATASET}), one width, one recipe but for its learning rate, one protocol, one input size and "
                "the same strides"
            )
    digests = {row["model"]: row["training_digest"] for row in rows}
    for row in rows:
        if row["training_digest"] != digests[row["model"]]:
            raise CompanionError(
                f"{path}/accuracy.csv: {row['model']} seed {row['seed']} was trained by another recipe than its other "
                "seeds; train it again by the recipe of the study"
            )
    return Study(path.name, results, rows, facts)


def _strides(row: Row) -> str:
    """`strides 2.2.2.1.1`: those of the network of a row."""
    return f"strides {'.'.join(map(str, require_model(row['model']).strides))}"


def _odd_recipes(path: Path, rows: Sequence[Row]) -> set[str]:
    """The recipes that differ from that of the first row in more than the learning rate."""
    names = {row["recipe"] for row in rows}
    if len(names) == 1:
        return set()
    recipes = read_json(path / "experiment.json")["recipes"]

    def but_for_rate(name: str) -> dict[str, Any]:
        return {key: value for key, value in recipes.get(name, {"name": name}).items() if key != "learning_rate"}

    first = but_for_rate(rows[0]["recipe"])
    return {name for name in names if but_for_rate(name) != first}


def study_rows(claim: Claim, studies: Sequence[Study]) -> Iterator[dict[str, Any]]:
    """The rows of one claim: the pairs of networks that it compares, one row per study."""
    n_terms = len(parse(claim["condition"]))
    for study in studies:
        found = compared(claim, study.pairs)
        answers = [_answer(term, pair, study) for term, pair in found]
        origin = RowOrigin(STUDY, study.name, study.setting, differs=[OTHER_IMAGES])
        for row in ledger_row(claim, origin, answers, n_terms):
            part = WHOLE if len(answers) == n_terms else " and ".join(str(term) for term, _ in found)
            yield row | {"part": part, "verdict_inference": worst([pair for _, pair in found])}


def _answer(term: Term, pair: Pair, study: Study) -> Answer:
    """The difference of one pair, which decides no number."""
    reason = f"{variation(pair.upper)} less {variation(pair.lower)}: {pair.verdict}"
    reason += f" (Holm p {pair.p_corrected:.2g} over {len(study.pairs)} pairs)"
    if pair.verdict == NOT_RESOLVED and pair.seeds_needed is not None:
        reason += f", {pair.seeds_needed} seeds each might do"
    evidence = tuple(
        f"accuracy.csv {name} {judged_form(name)}, {len(study.accuracies[name])} seeds"
        for name in (pair.upper, pair.lower)
    )
    low, high = pair.span.low, pair.span.high
    value = f"{pair.difference:+.2f}"
    finding = Finding(NOT_TESTED, INCONCLUSIVE, value, low, high, reason=reason, evidence=evidence)
    return Answer(term, finding, shown=True)
