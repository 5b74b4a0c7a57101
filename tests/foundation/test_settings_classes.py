"""The one mechanism for settings: the same rules from Python, from JSON, from a file and through pydantic."""

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from repvgg_companion.errors import CompanionError
from repvgg_companion.settings import Settings, setting


@dataclass(frozen=True)
class Oven(Settings):
    """How to bake."""

    title: ClassVar[str] = "oven"
    degrees: float = setting("temperature in degrees C", low=0, high=300)
    minutes: int = setting("baking time in minutes", 30, low=1)
    mode: Literal["fan", "grill"] = setting("where the heat comes from", "fan")
    racks: tuple[str, ...] = setting("which racks are used", ("top",), choices=("top", "middle"), filled=True)
    humidity: float | None = setting("share of water in the air, 0 to 1", None, above=0, high=1)
    light: bool = setting("whether the lamp is on", False)

    def check(self) -> None:
        """A grill at full heat burns."""
        if self.mode == "grill" and self.degrees > 250:
            raise ValueError("degrees is above 250 with mode grill; lower it")


class Kitchen(BaseModel):
    """A file that embeds the settings."""

    oven: Oven


WRONG = [
    ({}, "degrees is missing"),
    ({"degrees": 200, "minute": 3}, "minute is not a known key; did you mean minutes?"),
    ({"degrees": "2e2"}, "write 1.0e-4 with a dot"),
    ({"degrees": True}, "instead of a number"),
    ({"degrees": 301}, "degrees is 301, outside 0 to 300"),
    ({"degrees": float("nan")}, "not a finite number"),
    ({"degrees": 200, "minutes": 2.5}, "instead of a whole number"),
    ({"degrees": 200, "minutes": 0}, "minutes is 0; it must be at least 1"),
    ({"degrees": 200, "mode": "steam"}, "choose one of fan, grill"),
    ({"degrees": 200, "mode": "Gril"}, "mode is 'Gril'; choose one of fan, grill; did you mean grill?"),
    ({"degrees": 200, "racks": []}, "racks is empty"),
    ({"degrees": 200, "racks": "top"}, "instead of a list"),
    ({"degrees": 200, "racks": ["top", "top"]}, "names top twice"),
    ({"degrees": 200, "racks": ["low"]}, "choose one of top, middle"),
    ({"degrees": 200, "humidity": 0}, "it must be above 0"),
    ({"degrees": 200, "light": 1}, "instead of true or false"),
    ({"degrees": 260, "mode": "grill"}, "lower it"),
]


@pytest.mark.parametrize(("values", "words"), WRONG, ids=[words for _, words in WRONG])
def test_every_way_in_refuses_the_same_value_with_the_same_words(values, words):
    with pytest.raises(CompanionError, match=r"^oven: ") as found:
        Oven.from_mapping(values)
    assert words in str(found.value)
    with pytest.raises(ValidationError) as by_pydantic:
        Kitchen.model_validate({"oven": values})
    assert str(found.value).removeprefix("oven: ") in str(by_pydantic.value)


def test_text_file_part_of_a_file_and_pydantic_give_the_same_settings(tmp_path):
    values = {"degrees": 200, "racks": ["middle", "top"], "humidity": 0.5}
    expected = Oven(degrees=200.0, racks=("middle", "top"), humidity=0.5)
    (tmp_path / "oven.json").write_text(json.dumps(values))
    (tmp_path / "all.json").write_text(json.dumps({"kitchen": {"oven": values}}))
    assert Oven.read(json.dumps(values)) == expected
    assert Oven.read(str(tmp_path / "oven.json")) == expected
    assert Oven.read(f"{tmp_path / 'all.json'}#kitchen.oven") == expected
    (tmp_path / "dots.json").write_text(json.dumps({"r": {"a": {}, "a.b": {"c": values}}}))
    assert Oven.read(f"{tmp_path / 'dots.json'}#r.a.b.c") == expected
    kitchen = Kitchen.model_validate({"oven": values})
    assert kitchen.oven == expected
    assert Kitchen.model_validate(kitchen.model_dump(mode="json")) == kitchen
    assert type(expected.degrees) is float


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere.json", "nowhere.json cannot be read"),
        ("{]", "not valid JSON"),
        ("FILE#kitchen.ovne", "has no key kitchen.ovne; did you mean oven?"),
        ("FILE#kitchen.sink", "has no key kitchen.sink; known are oven"),
        ("FILE#kitchen.oven.degrees", "is not a JSON object"),
    ],
)
def test_unreadable_settings_are_named(tmp_path, text, words):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"kitchen": {"oven": {"degrees": 200}}}))
    with pytest.raises(CompanionError) as found:
        Oven.read(text.replace("FILE", str(path)))
    assert words in str(found.value)


def test_the_schema_describes_every_key_and_accepts_what_the_class_accepts():
    schema = Kitchen.model_json_schema()["properties"]["oven"]
    assert schema["properties"]["degrees"] == {
        "description": "temperature in degrees C", "type": "number", "minimum": 0, "maximum": 300
    }  # fmt: skip
    jsonschema.validate({"degrees": 200, "racks": ["top"], "humidity": None}, schema)
    for values, _ in WRONG:
        if values.get("mode") == "grill" or values.get("degrees") != values.get("degrees"):
            continue  # a rule over two fields, and NaN, are beyond a JSON schema
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values, schema)
