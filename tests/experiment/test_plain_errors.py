"""Errors of pydantic in plain words: what is wrong, where, and what to do."""

import copy
import datetime
import re
from pathlib import Path

import pytest
import yaml

from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment import load
from repvgg_companion.experiment.load import load_experiment

ROOT = Path(__file__).resolve().parents[2]
DEMO = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
CITY = yaml.safe_load((ROOT / "config/cityscapes.yaml").read_text())


def changed(config, path, value):
    """A copy of the configuration with another value at the path."""
    config = copy.deepcopy(config)
    inner = config
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "training.0.models",
            "RepVGG-A0",
            "training[0].models is 'RepVGG-A0' instead of a list; write its items in br",
        ),
        ("training", {"a": 1}, "training is a group of keys instead of a list; "),
        ("data", None, "data is empty instead of a group of keys; write one key a line, indented below it"),
        ("data.dataset", "Demo X", "data.dataset is 'Demo X'; a name has lower-case letters, digits, dots and hyphens"),
        ("data.dataset", 3, "data.dataset is 3 instead of a text; write one, in quotes if it looks like a number"),
        ("data.dataset", datetime.date(2026, 1, 2), "data.dataset is 2026-01-02 instead of a text"),
        ("data.num_classes", "x", "data.num_classes is 'x' instead of a whole number; write one"),
        ("data.num_classes", 2.5, "data.num_classes is 2.5 instead of a whole number; write one"),
        ("data.num_classes", 1, "data.num_classes is 1; it must be at least 2"),
        ("data.verify", "maybe", "data.verify is 'maybe' instead of true or false; write one of them"),
        ("data.undecodable", "stopp", "data.undecodable is 'stopp'; choose one of stop, count; did you mean stop?"),
        ("training.0.width", "wide", "training[0].width is 'wide' instead of a number; write one"),
        ("training.0.width", 0, "training[0].width is 0; it must be above 0"),
        ("training.0.width", 9, "training[0].width is 9; it must be at most 4"),
        ("training.0.seeds", [], "training[0].seeds is empty; name at least one"),
        ("execution.train", {"runtime": "soon"}, "execution.train.runtime is 'soon'; write a number and m, h or d"),
        ("recipes", {"Bad Name": {"epochs": 1}}, "recipes has the key 'Bad Name'; a name has lower-case letters"),
        ("recipes.demo-2-epochs", 3, "recipes.demo-2-epochs is 3 instead of a group of keys; write one key a line"),
        ("speed", None, ""),
        ("data.7", 2, "data has the key 7 instead of a text; "),
        ("7", 2, "the file has the key 7 instead of a text; "),
    ],
)
def test_each_kind_of_error_says_what_is_wrong_where_and_what_to_do(path, value, said):
    parts = [int(part) if part.isdigit() else part for part in path.split(".")]
    if not said:
        load_experiment(changed(DEMO, parts, value), "f.yaml")
        return
    with pytest.raises(CompanionError) as caught:
        load_experiment(changed(DEMO, parts, value), "f.yaml")
    assert str(caught.value).startswith(f"f.yaml: {said}")


def places(inner, path=()):
    """The path of every value of a configuration, the first of each list."""
    pairs = inner.items() if isinstance(inner, dict) else [(0, inner[0])] if isinstance(inner, list) and inner else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


JUNK = (None, True, -1, 10**30, 0.5, float("nan"), "", "Two Words", [], [None], [[1]], {}, {3: 4}, {"x": None})


@pytest.mark.parametrize("config", [DEMO, CITY], ids=["demo", "cityscapes"])
def test_no_value_anywhere_is_answered_in_pydantics_words(config):
    """Every place of a file gets every kind of junk."""
    refused = 0
    for path in places(config):
        for value in JUNK:
            try:
                load_experiment(changed(config, path, value), "f.yaml")
            except CompanionError as error:
                refused += 1
                said = str(error)
                assert said.startswith("f.yaml: ") and "\n" not in said and "1 validation" not in said, (path, value)
                assert not re.search(r"(?i)should|valid (list|dict|string|integer|number|bool)|pattern", said), said
    assert refused > 500 and load.EXPECTED["list_type"].startswith("a list; ")
