"""The ledger against a second, naive evaluation of every condition, with several wrong values planted at once."""

import math
import random
import re
from functools import cache

import pytest
from paper_synthetic import PAPER, write_imagenet

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


def evaluated(condition: str, tables: dict) -> bool | None:
    """Whether a condition holds, by replacing each quantity with its number; None where something is not a number."""
    body, _, recipe = condition.partition("@")

    def number(match: re.Match) -> str:
        name, (subject, *words) = match[1], [part.strip() for part in match[2].split(",")]
        form = "train" if "train" in words else "deploy"
        if name == "top1":
            wanted = next((word for word in words if word.endswith("-epochs")), recipe.strip())
            found = [row["top1_pct"] for row in tables["accuracy"] if (row["model"], row["recipe"]) == (subject, wanted)
                     and not any(word.endswith("px") for word in words)]  # fmt: skip
        elif name == "speed":
            found = [row["examples_per_s"] for row in tables["speed"] if (row["model"], row["form"]) == (subject, form)]
        elif name == "density":
            found = [row["tflops"] for row in tables["kernel_size"] if row["kernel_size"] == int(subject)]
        else:
            found = [counted(subject, form, name)] if name in ("params", "flops", "wino") else []
        return repr(sum(found) / len(found)) if found else "None"

    results = []
    for term in re.split(r"\s+and\s+", body.strip()):
        text = re.sub(r"\b(\w+)\(([^()]*)\)", lambda match: match[0] if match[1] == "trunc" else number(match), term)
        if "check(" in term or "None" in text:
            results.append(None)
            continue
        names = {"trunc": lambda value, digits=0: math.floor(value * 10**digits + 1e-7) / 10**digits}
        if re.search(r"[<>]", text):
            results.append(bool(eval(text, names)))
        else:
            left, right = (eval(side, names) for side in text.split("="))
            results.append(abs(left - right) <= (TOLERANCE if "top1" in term else 0) + 1e-9)
    return False if False in results else None if None in results else True


@pytest.mark.parametrize("seed", range(6))
def test_both_evaluations_agree_on_every_claim(printed, tmp_path, seed):
    facts, tables = Facts(PAPER), planted(printed, seed)
    for table in TABLES:
        write_rows(tmp_path / f"{table}.csv", table, tables[table])
    decided = []
    for row in claim_rows(facts, Results(tmp_path)):
        holds = evaluated(row["condition"], tables)
        if holds is not None and "check(" not in row["condition"]:
            expected = "reproduced" if holds else "contradicted"
            assert row["verdict_number"] == expected, (row["id"], row["reason"])
            decided.append(expected)
    assert len(decided) > 30 and "contradicted" in decided and "reproduced" in decided
