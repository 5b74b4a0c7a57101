"""Read experiment files, and say in one sentence what is wrong with one."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from repvgg_companion.errors import CompanionError, choose_one, did_you_mean, located, nearest
from repvgg_companion.experiment.experiment_file import NAME_PATTERN, RUNTIME_PATTERN, Experiment
from repvgg_companion.experiment.read_yaml import read_keys
from repvgg_companion.files import read_json
from repvgg_companion.models.names import require_model
from repvgg_companion.models.start import require_start
from repvgg_companion.weights_file import read_header

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""Pydantic's names of the error that a model, or a dataclass, does not have a key."""

_KINDS = {
    "a list; write its items in brackets, as in [a, b]": ("list_type", "tuple_type"),
    "a group of keys; write one key a line, indented below it": ("dict_type", "model_type", "model_attributes_type"),
    "a text; write one, in quotes if it looks like a number": ("string_type",),
    "a whole number; write one": ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
    "a number; write one": ("float_type", "float_parsing"),
    "a finite number; write one": ("finite_number",),
    "true or false; write one of them": ("bool_type", "bool_parsing"),
}
EXPECTED = {kind: words for words, kinds in _KINDS.items() for kind in kinds}
"""Pydantic's names of the errors that a value has another type, with what is expected and what to do."""
BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
}
"""Pydantic's names of the errors that a number is out of bounds, with the words and the key of the bound."""
PATTERNS = {
    NAME_PATTERN: "a name has lower-case letters, digits, dots and hyphens only, and begins with a letter or digit",
    RUNTIME_PATTERN: "write a number and m, h or d, such as 90m, 12h or 5d",
}
"""What a text must be, in words."""


def load_experiment(config: Mapping[str, Any], origin: str) -> Experiment:
    """Check a configuration; raises CompanionError that names `origin` (the file) and the key."""
    try:
        return Experiment.model_validate(dict(config))
    except ValidationError as error:
        raise CompanionError(f"{origin}: {_sentence(error)}") from None


def read_experiment(path: str | Path) -> Experiment:
    """Read and check one experiment file; raises CompanionError that names the file and the key."""
    return load_experiment(read_keys(path), str(path))


def missing_sources(experiment: Experiment) -> dict[str, str]:
    """The keys of `data` whose file or folder does not exist, with their paths."""
    source = {key: path for key, path in experiment.data.source.items() if key != "generate"}
    return {key: path for key, path in source.items() if not Path(path).exists()}


def require_sources(experiment: Experiment, origin: str, indexed: Path | None = None) -> None:
    """Raise CompanionError naming file, key and path if images are not where the experiment says.

    `indexed` is the `dataset.json` of an earlier run: images that it was made from may be gone.
    """
    known = []
    if indexed is not None and indexed.exists() and indexed.with_name("val.parquet").exists():
        known = read_json(indexed).get("sources", [])
    for key, path in missing_sources(experiment).items():
        if path in known:
            continue
        raise CompanionError(
            f"{origin}: data.{key} is {path}, which does not exist{_but_a_neighbour(path)}; correct the path, put the "
            f"{kind_of_source(key)} there, or name yours with --config 'data={{{key}: PATH}}'"
        )


def kind_of_source(key: str) -> str:
    """What a key of `data` names: a file or a folder."""
    return "folder" if key.endswith("_folder") else "file"


def _but_a_neighbour(path: str) -> str:
    """The neighbour of a missing path whose name is nearest, in words; empty if there is none."""
    parent = Path(path).parent
    near = nearest(Path(path).name, (found.name for found in parent.iterdir())) if parent.is_dir() else []
    return f" (but {parent / near[0]} does)" if near else ""


def require_backbones(experiment: Experiment, origin: str) -> None:
    """Raise CompanionError naming model and file if weights that a network starts from do not exist or do not fit."""
    for group in experiment.training:
        for model in group.models:
            start = require_model(model).backbone or model
            path = group.backbones.get(start, "random")
            where = f"{origin}: training backbones {start}"
            if path != "random" and Path(path).is_dir():
                raise CompanionError(f"{where} is {path}, which is a folder; name the weights file in it")
            if path != "random" and not Path(path).is_file():
                raise CompanionError(
                    f"{where} is {path}, which does not exist; train that network, or bring released weights into this "
                    "form with 'python -m repvgg_companion weights convert FILE --to companion'"
                )
            if path != "random":
                with located(where):
                    require_start(model, read_header(path)[0], path, group.width)


def _sentence(error: ValidationError) -> str:
    details = error.errors(include_url=False)
    # A misspelt key also makes the right one missing: the misspelt one is named first.
    first = min(details, key=lambda detail: detail["type"] not in UNKNOWN)
    where = _dotted(first["loc"])
    if first["type"] in UNKNOWN:
        hint = did_you_mean(str(first["loc"][-1]), _keys_at(first["loc"][:-1]))
        text = f"{where} is not a known key; {hint}"
    elif first["type"] == "missing":
        text = f"{where} is missing; add it"
    else:
        text = _plain(where, first)
    if len(details) > 1:
        text += f" (and {len(details) - 1} more after this one)"
    return text.strip()


def _plain(where: str, detail: Mapping[str, Any]) -> str:
    """One error of pydantic in plain words: what is wrong, where, and what to do."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{where}{'' if message.startswith('is ') else ':'} {message}" if where else message
    subject = f"{where} is {_shown(value)}"
    if detail["loc"][-1:] == ("[key]",):
        subject = f"{_dotted(detail['loc'][:-2])} has the key {value!r}"
    elif kind == "invalid_key":
        subject, kind = f"{_dotted(detail['loc'][:-1]) or 'the file'} has the key {value!r}", "string_type"
    if kind in EXPECTED:
        return f"{subject} instead of {EXPECTED[kind]}"
    if kind == "string_pattern_mismatch":
        return f"{subject}; {PATTERNS[context['pattern']]}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"{subject}; {choose_one(value, choices)}"
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return f"{subject}; it must be {words} {context[key]:g}"
    if kind == "too_short":
        return f"{where} is empty; name at least one"
    return f"{subject}; {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _shown(value: Any) -> str:
    """A value of the file in a sentence: scalars as they are, longer ones by their kind."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping | list):
        return "a group of keys" if isinstance(value, Mapping) else "a list"
    return repr(value) if isinstance(value, str | float) else str(value).lower()


def _dotted(location: Iterable[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the model knows at a place of the file."""
    model: Any = Experiment
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        else:
            arguments = [item for item in typing.get_args(model) if item is not types.NoneType]
            model = arguments[-1] if arguments else None
        if typing.get_origin(model) in (typing.Union, types.UnionType):
            model = next(item for item in typing.get_args(model) if item is not types.NoneType)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return sorted(model.model_fields)
    return sorted(field.name for field in dataclasses.fields(model)) if dataclasses.is_dataclass(model) else []
