"""Write docs/keys.md: every key of an experiment file and every name that a key may have, from the code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repvgg_companion.data.protocols import EVALUATION_DECODERS, INTERPOLATIONS
from repvgg_companion.experiment.experiment_file import Experiment
from repvgg_companion.models.names import MODELS, VARIATIONS
from repvgg_companion.speed.speed_settings import KernelSettings, MemorySettings, SpeedSettings
from repvgg_companion.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Keys

Written by `make docs` from the code; a test compares the two.

An experiment is one YAML file. Every key is checked before anything runs, and a key that is not listed here is refused.
Keys marked *required* must be given; where the default is empty, nothing is set. `results/NAME/experiment.json` shows every
key of a run with its value.

Single values can be changed on the command line; nested ones stand in braces:

```bash
snakemake --cores all --configfile config/tiny-imagenet.yaml --config 'data={zip: /data/tiny-imagenet-200.zip}'
```
"""
PARTS = {
    "file": ("Experiment", "The file"),
    "data": ("Data", "`data`: the images"),
    "recipes.NAME": ("Recipe", "`recipes.NAME`: how a network is trained"),
    "training": ("TrainingGroup", "`training`: a list of groups of networks"),
    "released": ("Released", "`released`: weights that exist already"),
    "evaluation": ("Evaluation", "`evaluation`: how accuracy is measured"),
    "speed": ("SpeedSettings", "`speed` and `segmentation_speed`: how speed is measured"),
    "kernel_size": ("KernelSettings", "`kernel_size`: Table 1 on this machine"),
    "memory": ("MemorySettings", "`memory`: Figure 3 on this machine"),
    "execution": ("Execution", "`execution`: how the work is cut into jobs"),
    "resources": ("Resources", "`execution.train` and its neighbours: what a job asks for"),
}
"""The classes of the schema in the order of the page, each with its heading."""
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "object": "group of keys"}


def number(value: float) -> str:
    """A number without superfluous digits."""
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def kind(value: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in value:
        return "group of keys"
    if "anyOf" in value:
        return " or ".join(kind(part) for part in value["anyOf"] if part.get("type") != "null")
    if "enum" in value:
        return ", ".join(f"`{name}`" for name in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        item = kind(value["items"]) if value.get("items") else "values"
        return f"list of {'groups of keys' if item == 'group of keys' else item}"
    text = WORDS[value["type"]]
    low, high, above = (value.get(name) for name in ("minimum", "maximum", "exclusiveMinimum"))
    limits = [f"at least {number(low)}" if low else "", f"above {number(above)}" if above is not None else ""]
    limits.append(f"at most {number(high)}" if high is not None else "")
    return ", ".join([text, *filter(None, limits)])


def default(name: str, value: dict[str, Any], required: list[str]) -> str:
    """The default of a key; empty if there is none or nothing."""
    given = value.get("default")
    if name in required or given in (None, [], {}, "") or isinstance(given, dict):
        return "*required*" if name in required else ""
    if isinstance(given, bool):
        return f"`{str(given).lower()}`"
    if isinstance(given, list):
        return f"`[{', '.join(map(str, given))}]`"
    return f"`{given:g}`" if isinstance(given, float) else f"`{given}`"


def rows(schema: dict[str, Any]) -> Iterator[str]:
    """One line of Markdown for each key of one part."""
    for name, value in schema["properties"].items():
        meaning = value.get("description", "").replace("|", "\\|")
        yield f"| `{name}` | {kind(value)} | {default(name, value, schema.get('required', []))} | {meaning} |"


def names() -> str:
    """The names that keys may have as values."""
    by_family: dict[str, list[str]] = {}
    for spec in MODELS.values():
        by_family.setdefault(spec.family, []).append(f"`{spec.name}`")
    families = "\n".join(f"- {family}: {', '.join(found)}" for family, found in by_family.items())
    return f"""## Names of networks

{families}

A RepVGG may be followed by a variation: {", ".join(f"`_{name}`" for name in VARIATIONS)}. A RepVGG of your own is named
by its structure: [Your own network](own-variant.md).

## Names of evaluation protocols

`resize256-crop224-bilinear-pillow` resizes the short side to 256 px and cuts out the central 224 px. `crop32-bilinear-pillow`
resizes nothing. The interpolation is {" or ".join(f"`{name}`" for name in INTERPOLATIONS)}, the decoder
{" or ".join(f"`{name}`" for name in EVALUATION_DECODERS)}; `pillow` is exact, `torchvision` is fast. `slide713-pillow`
segments a whole image in windows of 713 px.
"""


def text() -> str:
    """The whole page."""
    schema = Experiment.model_json_schema()
    classes = {"Experiment": schema, **schema["$defs"]}
    for settings in (Recipe, SpeedSettings, KernelSettings, MemorySettings):
        classes[settings.__name__] = settings.json_schema()
    sections = [
        "\n".join([f"## {heading}", "", "| key | value | default | meaning |", "| --- | --- | --- | --- |",
                   *rows(classes[name])])
        for name, heading in PARTS.values()
    ]  # fmt: skip
    return "\n\n".join([HEAD.rstrip(), *sections, names()])


if __name__ == "__main__":
    (ROOT / "docs" / "keys.md").write_text(text(), encoding="utf-8")
