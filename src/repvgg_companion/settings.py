"""Settings as plain frozen dataclasses: one way to declare, check, read and document them.

Needs no pydantic, so the verbs that train and measure run on a bare GPU machine. The pydantic model of an experiment
file embeds these classes and takes their checks and descriptions over.
"""

import argparse
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from repvgg_companion.errors import CompanionError, choose_one, did_you_mean

Request = TypeVar("Request")


@dataclass(frozen=True)
class Rule:
    """What a setting may be. `low`, `high` and `above` bound a number, or each item of a list."""

    description: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    """The allowed texts, or the allowed items of a list."""
    filled: bool = False
    """Whether a list needs at least one item."""
    repeats: bool = False
    """Whether a list may name an item twice."""


def setting(description: str, default: Any = MISSING, **limits: Any) -> Any:
    """A field of a `Settings` class: its description (with the unit), its default, and the limits of `Rule`."""
    return dataclasses.field(default=default, metadata={"rule": Rule(description, **limits)})


@dataclass(frozen=True)
class Settings:
    """Base of all settings classes. Fields are int, float, bool, str, Literal, a tuple of these, or one of them | None.

    A subclass sets `title`, the word that its error messages start with, and may extend `check` by rules over several
    fields. Building one raises ValueError with one sentence; `from_mapping` and `read` raise CompanionError.
    """

    title: ClassVar[str] = "settings"

    def __post_init__(self) -> None:
        """Check every field, then the rules over several fields."""
        types_of_fields = _types(type(self))
        for field in dataclasses.fields(self):
            value = _checked(field.name, types_of_fields[field.name], getattr(self, field.name), _rule(field))
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Rules over several fields; raises ValueError with one sentence."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], origin: str = "") -> Self:
        """Build from a mapping; raises CompanionError that starts with `origin` (or the title) and names the key."""
        try:
            return cls(**_known(cls, values))
        except ValueError as error:
            raise CompanionError(f"{origin or cls.title}: {error}") from None

    @classmethod
    def read(cls, text: str) -> Self:
        """Read settings from JSON text, from a JSON file, or from `FILE#KEY.KEY`, a part of a JSON file.

        Raises CompanionError that names the file, the key and what is allowed.
        """
        values, origin = read_mapping(text)
        return cls.from_mapping(values, f"{origin}: {cls.title}" if origin else cls.title)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values: lists instead of tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of a mapping of these settings, with descriptions, limits and defaults."""
        fields, types_of_fields = dataclasses.fields(cls), _types(cls)
        return {
            "type": "object",
            "title": cls.__name__,
            "description": (cls.__doc__ or "").splitlines()[0],
            "additionalProperties": False,
            "properties": {field.name: _schema_of(types_of_fields[field.name], field) for field in fields},
            "required": [field.name for field in fields if field.default is MISSING],
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Let pydantic check a field of this class by `from_mapping`'s rules."""
        from pydantic_core import core_schema

        def validate(value: Any) -> "Settings":
            if isinstance(value, cls):
                return value
            if not isinstance(value, Mapping):
                shown = "empty" if value is None else repr(value)
                raise ValueError(f"is {shown} instead of a group of keys; write one key a line, indented below it")
            return cls(**_known(cls, value))

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.as_dict())
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        """The schema that pydantic writes into the schema of an experiment file."""
        return cls.json_schema()


def read_mapping(text: str) -> tuple[dict[str, Any], str]:
    """The mapping in JSON text, in a JSON file, or at `FILE#KEY.KEY`; and the file's name, empty for JSON text.

    Raises CompanionError if the file, the key or the JSON is missing or damaged.
    """
    if text.lstrip().startswith("{"):
        return _object(text, "the settings on the command line"), ""
    path, _, keys = text.partition("#") if not Path(text).exists() else (text, "", "")
    try:
        value: Any = _object(Path(path).read_text(encoding="utf-8"), path)
    except OSError as error:
        raise CompanionError(f"{path} cannot be read ({error.strerror}); give JSON or a JSON file") from None
    rest = keys
    while rest:
        # A key may have dots in it, as in recipes.resnet-v1.5: the longest that fits is meant.
        known = list(value) if isinstance(value, dict) else []
        key = max((key for key in known if f"{rest}.".startswith(f"{key}.")), key=len, default=None)
        if key is None:
            raise CompanionError(f"{path} has no key {keys}; {did_you_mean(rest, known)}")
        value, rest = value[key], rest[len(key) + 1 :]
    if not isinstance(value, dict):
        raise CompanionError(f"{text} is not a JSON object of settings")
    return value, text


def _object(text: str, origin: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CompanionError(f"{origin}: {text[:80]!r} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise CompanionError(f"{origin}: {text[:80]!r} is not a JSON object of settings")
    return value


def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _rule(field: dataclasses.Field) -> Rule:
    return field.metadata.get("rule", Rule(""))


def _known(cls: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, if every key is a field and every field without a default is there; else ValueError."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(str(key) for key in values if key not in fields):
        raise ValueError(f"{unknown[0]} is not a known key; {did_you_mean(unknown[0], fields)}")
    if missing := [name for name, field in fields.items() if field.default is MISSING and name not in values]:
        raise ValueError(f"{missing[0]} is missing; add it")
    return dict(values)


def _checked(name: str, kind: Any, value: Any, rule: Rule) -> Any:
    """The value in its type (lists become tuples, whole numbers floats); ValueError with one sentence if it is not."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        return _checked(name, next(item for item in arguments if item is not types.NoneType), value, rule)
    if origin is tuple:
        return _checked_list(name, arguments[0], value, rule)
    if origin is typing.Literal:
        return _checked_text(name, value, tuple(arguments))
    if kind is str:
        return _checked_text(name, value, rule.choices)
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r} instead of true or false")
        return value
    return _checked_number(name, kind, value, rule)


def _checked_list(name: str, kind: Any, value: Any, rule: Rule) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {value!r} instead of a list")
    items = tuple(_checked(name, kind, item, rule) for item in value)
    if rule.filled and not items:
        hint = f"; choose among {', '.join(rule.choices)}" if rule.choices else ""
        raise ValueError(f"{name} is empty{hint or '; name at least one'}")
    if not rule.repeats and (doubles := [item for item in items if items.count(item) > 1]):
        raise ValueError(f"{name} names {doubles[0]} twice; name it once")
    return items


def _checked_text(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r} instead of a text")
    if choices and value not in choices:
        raise ValueError(f"{name} is {value!r}; {choose_one(value, choices)}")
    return value


def _checked_number(name: str, kind: type, value: Any, rule: Rule) -> float:
    wanted: tuple[type, ...] = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        numeric = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", value)
        hint = "; write 1.0e-4 with a dot in YAML" if numeric else ""
        raise ValueError(f"{name} is {value!r} instead of {'a whole number' if kind is int else 'a number'}{hint}")
    value = kind(value)
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is not a finite number")
    if rule.above is not None and value <= rule.above:
        raise ValueError(f"{name} is {value:g}; it must be above {rule.above:g}")
    low, high = rule.low, rule.high
    if (low is not None and value < low) or (high is not None and value > high):
        if low is not None and high is not None:
            raise ValueError(f"{name} is {value:g}, outside {low:g} to {high:g}")
        bound = f"at least {low:g}" if low is not None else f"at most {high:g}"
        raise ValueError(f"{name} is {value:g}; it must be {bound}")
    return value


_JSON_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def _schema_of(kind: Any, field: dataclasses.Field) -> dict[str, Any]:
    rule = _rule(field)
    schema: dict[str, Any] = {"description": rule.description} if rule.description else {}
    schema |= _schema_of_type(kind, rule)
    if field.default is not MISSING:
        schema["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
    return schema


def _schema_of_type(kind: Any, rule: Rule) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [{"type": "null"} if item is types.NoneType else _schema_of_type(item, rule) for item in arguments]
        return {"anyOf": kinds}
    if origin is tuple:
        schema: dict[str, Any] = {"type": "array", "items": _schema_of_type(arguments[0], rule)}
        return schema | ({"minItems": 1} if rule.filled else {}) | ({} if rule.repeats else {"uniqueItems": True})
    if origin is typing.Literal:
        return {"type": "string", "enum": list(arguments)}
    if kind is str and rule.choices:
        return {"type": "string", "enum": list(rule.choices)}
    limits = {"minimum": rule.low, "maximum": rule.high, "exclusiveMinimum": rule.above}
    return {"type": _JSON_TYPES[kind]} | {key: value for key, value in limits.items() if value is not None}


def request_of(kind: type[Request], arguments: argparse.Namespace, **values: Any) -> Request:
    """The request of a verb: a dataclass whose fields are called like the verb's options.

    `values` take the place of the arguments of their names.
    """
    names = [field.name for field in dataclasses.fields(kind) if field.name not in values]  # type: ignore[arg-type]
    given = {name: getattr(arguments, name) for name in names}
    return kind(**values, **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
