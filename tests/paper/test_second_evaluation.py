"""The ledger against a second, naive evaluation of every condition, with several wrong values planted at once."""

import math
import random
import re
import statistics
from functools import cache

import pytest
from paper_synthetic import PAPER, write_imagenet
from scipy import stats

from repvgg_companion.complexity.count_complexity import count_model
from repvgg_companion.contract import read_rows, write_rows
from repvgg_companion.paper.claims import claim_rows
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import Facts

TABLES = ("accuracy", "speed", "kernel_size")
TOLERANCE = 0.25  # of retrained weights


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = write_imagenet(tmp_path_factory.mktemp("imagenet"), Facts(PAPER))
    return {table: read_rows(folder / f"{table}.csv", table) for table in TABLES}


def planted(printed: dict, seed: int) -> dict:
    """Up to four accuracies, three speeds and one density moved by amounts that turn some claims and not others."""
    chance = random.Random(seed)
    models = sorted({row["model"] for row in printed["accuracy"]})
    points = {model: chance.uniform(-2.5, 2.5) for model in chance.sample(models, chance.randint(1, 4))}
    factors = {key: chance.uniform(0.6, 1.5) for key in
               chance.sample(sorted({(row["model"], row["form"]) for row in printed["speed"]}), 3)}  # fmt: skip
    kernel, density = chance.choice((1, 3, 5, 7)), chance.uniform(0.5, 2)
    rates = ("examples_per_s", "low_examples_per_s", "high_examples_per_s")
    return {
        "accuracy": [row | {"top1_pct": row["top1_pct"] + points.get(row["model"], 0), "top1_low_pct": 0.0,
                            "top1_high_pct": 99.0} for row in printed["accuracy"]],
        "speed": [row | {rate: row[rate] * factors.get((row["model"], row["form"]), 1) for rate in rates}
                  for row in printed["speed"]],
        "kernel_size": [row | {"tflops": row["tflops"] * (density if row["kernel_size"] == kernel else 1)}
                        for row in printed["kernel_size"]],
    }  # fmt: skip


@cache
def counted(model: str, form: str, name: str) -> float:
    return getattr(count_model(model, form=form), {"wino": "wino_muls"}.get(name, name))


def intervals(name: str, words: list[str], recipe: str, tables: dict) -> tuple[list, bool]:
    """The values of a quantity: those of its seeds, or low, middle and high of a speed; and whether it is a speed."""
    subject, words = words[0], words[1:]
    form = "train" if "train" in words else "deploy"
    if name == "top1":
        wanted = next((word for word in words if word.endswith("-epochs")), recipe.strip())
        seeds = [row["top1_pct"] for row in tables["accuracy"] if (row["model"], row["recipe"]) == (subject, wanted)]
        return ([] if any(word.endswith("px") for word in words) else seeds), False
    if name == "speed":
        rows = [row for row in tables["speed"] if (row["model"], row["form"]) == (subject, form)]
        return [(row["low_examples_per_s"], row["examples_per_s"], row["high_examples_per_s"]) for row in rows], True
    rows = [row for row in tables["kernel_size"] if row["kernel_size"] == int(subject)]
    return [(row["tflops"] * row["time_ms"] / row["high_ms"], row["tflops"], row["tflops"] * row["time_ms"] /
             row["low_ms"]) for row in rows], True  # fmt: skip


def evaluated(condition: str, tables: dict) -> str | None:
    """The verdict on the number by naive evaluation; None if something is not a number or a term is a check.

    Two speeds become their ratio, moved to each end of its interval; two accuracies become their difference, moved to
    each end of scipy's Welch interval. A term that is true at all ends is met, at none not met, else open.
    """
    body, _, recipe = condition.partition("@")
    names = {"trunc": lambda value, digits=0: math.floor(value * 10**digits + 1e-7) / 10**digits}
    results = []
    for term in re.split(r"\s+and\s+", body.strip()):
        if "check(" in term:
            return None
        found: list[tuple[list, bool]] = []

        def number(match: re.Match, found: list = found) -> str:
            words = [part.strip() for part in match[2].split(",")]
            if match[1] in ("params", "flops", "wino"):
                return repr(float(counted(words[0], "train" if "train" in words else "deploy", match[1])))
            if match[1] in ("members", "layers", "miou"):
                found.append(([], False))
            else:
                found.append(intervals(match[1], words, recipe, tables))
            return f"x[{len(found) - 1}]"

        text = re.sub(r"\b(?!trunc)(\w+)\(([^()]*)\)", number, term)
        if any(not values for values, _ in found):
            return None
        holds = [satisfied(text, ends, names) for ends in corners(found)]
        results.append("met" if all(holds) else "open" if any(holds) else "not met")
    return next(verdict for verdict in ("not met", "open", "met") if verdict in results)


def corners(found: list[tuple[list, bool]]) -> list[list[float]]:
    """Values of the quantities at the ends of the interval of what is compared, and between them."""
    if not found:
        return [[]]
    if found[0][1]:
        (a, b) = (values[0] for values, _ in found)
        down = math.hypot(math.log(a[1] / a[0]), math.log(b[2] / b[1]))
        up = math.hypot(math.log(a[2] / a[1]), math.log(b[1] / b[0]))
        return [[a[1] * factor, b[1]] for factor in (math.exp(-down), 1.0, math.exp(up))]
    means = [statistics.mean(values) for values, _ in found]
    seeds = found[0][0]
    if len(found) == 1:
        ends = stats.ttest_1samp(seeds, 0).confidence_interval() if statistics.pstdev(seeds) else (means[0], means[0])
        return [[ends[0]], means, [ends[1]]]
    ends = stats.ttest_ind(seeds, found[1][0], equal_var=False).confidence_interval()
    return [[means[1] + end, means[1]] for end in (ends[0], means[0] - means[1], ends[1])]


def satisfied(text: str, x: list[float], names: dict) -> bool:
    if re.search(r"[<>]", text):
        return bool(eval(text, names | {"x": x}))
    left, right = (eval(side, names | {"x": x}) for side in text.split("="))
    return abs(left - right) <= (TOLERANCE if x else 0) + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_both_evaluations_agree_on_every_claim(printed, tmp_path, seed):
    facts, tables = Facts(PAPER), planted(printed, seed)
    for table in TABLES:
        write_rows(tmp_path / f"{table}.csv", table, tables[table])
    decided = []
    for row in claim_rows(facts, Results(tmp_path)):
        expected = evaluated(row["condition"], tables)
        if expected is not None:
            assert row["verdict_number"] == expected, (row["id"], row["reason"])
            decided.append(expected)
    assert len(decided) > 30 and "not met" in decided and "met" in decided


def test_wide_intervals_leave_numbers_open_in_both_evaluations(printed, tmp_path):
    """With ten times the noise many printed numbers are within the interval."""
    facts, tables = Facts(PAPER), planted(printed, 0)
    for row in tables["speed"]:
        row |= {"low_examples_per_s": row["examples_per_s"] * 0.9, "high_examples_per_s": row["examples_per_s"] * 1.1}
    for row in tables["accuracy"]:
        row["top1_pct"] += (int(row["seed"]) - 1) * 0.4
    for table in TABLES:
        write_rows(tmp_path / f"{table}.csv", table, tables[table])
    found = [(row["verdict_number"], evaluated(row["condition"], tables)) for row in
             claim_rows(facts, Results(tmp_path))]  # fmt: skip
    assert all(verdict == expected for verdict, expected in found if expected is not None)
    assert sum(verdict == "open" for verdict, _ in found) > 20
