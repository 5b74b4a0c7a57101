"""The text of a model card, from the facts of `config.json` alone."""

from collections.abc import Mapping
from typing import Any

from repvgg_companion.identity import FORMS

SHOWN_CLASSES = 10
HOW_FORMS_DIFFER = {
    "train": "has the branches; train, fine-tune or prune it",
    "deploy": "is the fast network that computes the same function",
}
IMAGES_LICENCE = {
    "imagenet": "ImageNet's images may be used for non-commercial research and education only.",
}
"""The terms of use of known image sets; for other images their owner's terms apply."""


def card_text(facts: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    name = facts["model"] + ("" if facts["width"] == 1 else f" at width {facts['width']:g}")
    training = facts["training"]
    released = training["recipe"] == "released"
    what = training["note"] if released else f"recipe {training['recipe']}, seed {training['seed']}"
    parts = [
        f"# {name}, {training['dataset']}",
        f"{name} of [RepVGG: Making VGG-style ConvNets Great Again](https://arxiv.org/abs/2101.03697), with "
        f"{facts['num_classes']} classes: {what}. The RepVGG companion wrote this page and `config.json` from the "
        f"results of the experiment `{facts['experiment']}`; the next run writes both again.",
        _use(facts),
        _files(facts),
        _preprocessing(facts["preprocessing"]),
        _classes(facts["classes"]),
        _accuracy(facts["accuracy"], facts["num_classes"]),
        _certificate(facts),
        "" if released else _recipe(training),
        _licence(training),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(facts: Mapping[str, Any]) -> str:
    form = "deploy" if "deploy" in facts["files"] else "train"
    if "crop_px" not in facts["preprocessing"]:
        return ""
    option = "" if form == "deploy" else ', form="train"'
    return f"""## Use

```python
import repvgg_companion as rc

network = rc.load("{form}.safetensors"{option})
image = rc.transform("{facts["preprocessing"]["protocol"]}")("image.jpg")
print(rc.class_names("config.json")[network(image[None]).argmax()])
```"""


def _files(facts: Mapping[str, Any]) -> str:
    rows = [
        f"| `{file['file']}` | {HOW_FORMS_DIFFER[form]} | {file['params']:,} | `{file['sha256']}` |"
        for form, file in sorted(facts["files"].items(), key=lambda item: FORMS.index(item[0]))
    ]
    note = f"\n\n{facts['decision']}" if facts["decision"] else ""
    return "\n".join(["## Files", "", "| file | | parameters | SHA-256 |", "| --- | --- | --- | --- |", *rows]) + note


def _preprocessing(facts: Mapping[str, Any]) -> str:
    if "window_px" in facts:
        how = f"windows of {facts['window_px']} px slide over the whole image"
    else:
        resize = f"the short side is resized to {facts['resize_px']} px ({facts['interpolation']})"
        how = (f"{resize}, then " if facts["resize_px"] else "") + f"the central {facts['crop_px']} px are cut out"
    mean, std = (", ".join(f"{value:g}" for value in facts[name]) for name in ("mean", "std"))
    return (
        f"## Preprocessing\n\n`{facts['protocol']}`: {how}. Values of red, green and blue go from 0 to 1. "
        f"Then the mean ({mean}) is subtracted, and the result is divided by ({std})."
    )


def _classes(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN_CLASSES])
    more = f", and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    everything = "`config.json` lists all of them in the order of the outputs."
    return f"## Classes\n\n{len(names)} classes: {shown}{more}. {everything}"


def _accuracy(rows: list[Mapping[str, Any]], num_classes: int) -> str:
    if "top1_pct" in rows[0]:
        value, second, titles = "top1", "top5_pct", ("top-1 (%), 95 % interval", "top-5 (%)")
    else:
        value, second, titles = "mean_iou", "pixel_accuracy_pct", ("mean IoU (%), 95 % interval", "pixel accuracy (%)")
    has_second = second != "top5_pct" or num_classes > 5  # of five classes every answer is among the first five
    columns = ["form", "protocol", "images", *titles[: 1 + has_second]]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        interval = f"{row[f'{value}_pct']:.2f} [{row[f'{value}_low_pct']:.2f}, {row[f'{value}_high_pct']:.2f}]"
        last = f" {row[second]:.2f} |" if has_second else ""
        lines.append(f"| {row['form']} | `{row['protocol']}` | {row['n_images']} | {interval} |{last}")
    return "\n".join(["## Accuracy", "", *lines, "", "The interval is for new images of the same kind."])


def _certificate(facts: Mapping[str, Any]) -> str:
    found = facts["certificate"]
    if found is None:
        reason = facts["reason_not_convertible"] or "these weights came in the deploy form"
        return f"## Certificate\n\nThere is none: {reason}."
    passed = "passed" if found["passed"] else "DID NOT PASS"
    equals = "equals" if found["file_matches_conversion"] else "DIFFERS FROM"
    return (
        f"## Certificate\n\nThe conversion {passed} its checks on {found['n_inputs']} images. In float64 both forms "
        f"differ by at most {found['float64_max_relative_error']:.1e} of the largest output. The deploy file {equals} "
        f"the float64 conversion, rounded once. In float32 they differ by at most "
        f"{found['float32_max_relative_error']:.1e} of it, and {found['prediction_flips']} predictions change."
    )


def _recipe(training: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {_setting(value, training['decided'].get(name, value))} |"
        for name, value in training["settings"].items()
    ]
    start = (
        f" It started from weights with SHA-256 `{training['backbone_sha256']}`." if training["backbone_sha256"] else ""
    )
    return "\n".join(
        [
            "## Training",
            "",
            f"Dataset `{training['dataset']}` (SHA-256 `{training['dataset_sha256']}`), training digest "
            f"`{training['training_digest']}`, seed {training['seed']}.{start}",
            *(["", f"Noted with these weights: {training['note']}."] if training["note"] else []),
            "",
            "| setting | value |",
            "| --- | --- |",
            *rows,
        ]
    )


def _setting(asked: object, used: object) -> str:
    """A setting of the recipe; where the recipe left it open, what the training decided."""
    return str(asked) if used == asked else f"{used} (the recipe: {asked}; decided at the first start)"


def _licence(training: Mapping[str, Any]) -> str:
    if training["recipe"] == "released":
        text = (
            "These weights belong to whoever published them, and keep that licence: the authors and timm name the MIT "
            "licence, mmpretrain the Apache licence 2.0."
        )
    else:
        text = (
            "The code that trained these weights is under the MIT licence. Who trained them decides on theirs, "
            f"within the terms of the images ({training['dataset']})."
        )
    images = IMAGES_LICENCE.get(training["dataset"], "")
    return f"## Licence\n\n{text} {images}".rstrip()
