"""Find out which network a weights file holds, at which width, and in which layout and form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from repvgg_companion.errors import CompanionError, located
from repvgg_companion.identity import METADATA_KEY, WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.models.load_form import require_state
from repvgg_companion.models.names import REPVGG_MODELS, require_model, width_of
from repvgg_companion.weights.key_layouts import LAYOUTS, detect_form, detect_layout, to_official
from repvgg_companion.weights.key_prefixes import bare_names
from repvgg_companion.weights.published_files import check_digest, model_of_file_name
from repvgg_companion.weights.reading import read_tensors
from repvgg_companion.weights.relatives import require_no_relative
from repvgg_companion.weights_file import load_weights, require_sound

_CLASSIFIER = ("linear.bias", "linear.weight")
NETWORK_KEY = "repvgg_companion_network"
"""Metadata of a safetensors file in another layout: model and width as JSON, where the tensors do not tell them."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class RecognizedWeights:
    """What a weights file holds.

    `state` has official keys. `digest_check` says in words what the file's digest was compared with. `prefix` is what
    was removed from the front of the keys, beside the marks of DataParallel and torch.compile.
    """

    path: str
    model: str
    form: str
    layout: str
    num_classes: int
    state: dict[str, Tensor]
    sha256: str
    digest_check: str
    width: float = 1.0
    prefix: str = ""
    input_px: int | None = None
    """What a file of the companion was trained at; None for other files."""


@cache
def _full_shapes(model: str, form: str, width: float) -> Shapes:
    with torch.device("meta"):
        module = build_model(model, form=form, width=width)
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def _expected(model: str, form: str, num_classes: int, width: float) -> Shapes:
    shapes = _full_shapes(model, form, width)
    return shapes | {"linear.weight": (num_classes, shapes["linear.weight"][1]), "linear.bias": (num_classes,)}


def recognize(path: str | Path, *, model: str | None = None, prefix: str = "") -> RecognizedWeights:
    """Read a weights file and find its network by its metadata, or else by the names and shapes of its tensors.

    The digest is compared with the one known for the file's name. `model` says which network is expected, also one that
    the tensors alone do not tell; `prefix` which part of a larger model to read. Batch counters
    (`num_batches_tracked`), which eval mode does not use, become 0 if a file has none. Raises CompanionError for a file
    that cannot be used, with the nearest model and the missing tensors if it almost fits.
    """
    sha256, digest_check = check_digest(path)
    if not prefix and companion_identity(path) is not None:
        return _own(path, model, sha256, digest_check)
    tensors, removed = bare_names(read_tensors(path), path, prefix)
    require_no_relative(tensors, path)
    layout = detect_layout(tensors)
    if layout is None:
        raise CompanionError(
            f"{path} holds no RepVGG in the layout of {', '.join(LAYOUTS)} (its first keys: "
            f"{', '.join(list(tensors)[:3])}); only weights of {REPVGG_MODELS[0]} to {REPVGG_MODELS[-1]} are read"
        )
    state, unknown = to_official(tensors, layout)
    with located(path):
        form = detect_form(state)
    num_classes = len(state["linear.bias"]) if "linear.bias" in state and state["linear.bias"].dim() == 1 else 1000
    if form == "train" and not any(key.endswith("num_batches_tracked") for key in state):
        norms = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
        state |= {f"{front}num_batches_tracked": torch.zeros((), dtype=torch.int64) for front in norms}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    nearest, width = _named_network(path, found, form, num_classes, model) or network_of(found, form, num_classes)
    _require_model(path, nearest, model)
    misfit = _misfit(found, unknown, _expected(nearest, form, num_classes, width))
    if misfit:
        nearly = f"the nearest is {nearest} in {form} form ({layout} layout)"
        raise CompanionError(f"{path} fits no RepVGG: {nearly}, {misfit}")
    named = model_of_file_name(path)
    if named is not None and named != nearest:
        raise CompanionError(f"{path} has the name of {named} but holds {nearest}; give it its own name")
    require_sound(state, path)
    _require_finite(state, path)
    return RecognizedWeights(
        str(path), nearest, form, layout, num_classes, state, sha256, digest_check, width, prefix=removed
    )


def _own(path: str | Path, wanted: str | None, sha256: str, digest_check: str) -> RecognizedWeights:
    """What a file of the companion holds; its metadata name the network, of any kind."""
    state, identity = load_weights(path)
    _require_model(path, identity.model, wanted)
    with torch.device("meta"):
        network = build_model(
            identity.model, num_classes=identity.num_classes, width=identity.width, form=identity.form
        )
    counters = {key for key in network.state_dict() if key.endswith("num_batches_tracked")} - state.keys()
    state |= {key: torch.zeros((), dtype=torch.int64) for key in counters}
    require_state(network, state, path)
    _require_finite(state, path)
    model, form, classes = identity.model, identity.form, identity.num_classes
    layout = "official" if require_model(model).family == "RepVGG" else "companion"
    return RecognizedWeights(
        str(path), model, form, layout, classes, state, sha256, digest_check, identity.width, input_px=identity.input_px
    )


def _named_network(
    path: str | Path, found: Shapes, form: str, num_classes: int, wanted: str | None
) -> tuple[str, float] | None:
    """Model and width that the metadata or `wanted` name; None if neither does, or if `wanted` does not fit."""
    text = _metadata(path).get(NETWORK_KEY)
    if text is not None:
        try:
            facts = json.loads(text)
            return require_model(facts["model"]).name, float(facts["width"])
        except (ValueError, TypeError, KeyError, CompanionError):
            raise CompanionError(f"the metadata {NETWORK_KEY} of {path} are damaged; use an undamaged copy") from None
    if wanted is None or require_model(wanted).family != "RepVGG":
        return None
    spec = require_model(wanted)
    width = width_of(spec, _stage_widths(found))
    if form == "deploy" and not spec.convertible:
        return None
    return (wanted, width) if _expected(wanted, form, num_classes, width) == found else None


def _require_model(path: str | Path, found: str, wanted: str | None) -> None:
    if wanted is None or require_model(wanted).name == found:
        return
    if require_model(wanted).family != "RepVGG":
        raise CompanionError(f"{path} cannot hold {wanted}; weights can be read of {', '.join(REPVGG_MODELS)}")
    raise CompanionError(f"{path} is not {wanted} but, by its tensors, {found}; name that model or another file")


def _misfit(found: Shapes, unknown: list[str], expected: Shapes) -> str:
    """In words, how the tensors of a file differ from those of a network and what to do; empty if they do not."""
    missing = sorted(expected.keys() - found.keys())
    misshapen = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    surplus = sorted([*unknown, *(found.keys() - expected.keys())])
    if missing and not misshapen and set(missing) <= set(_CLASSIFIER):
        instead = f" but with another head ({_first(surplus)})" if surplus else ""
        return (
            f"without {' and '.join(missing)}{instead}; save the network with its classifier, one fully connected "
            "layer, under these names"
        )
    parts = (("missing", missing), ("of another shape", misshapen), ("unknown", surplus))
    problems = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in parts if keys]
    if not problems:
        return ""
    return f"with tensors {', '.join(problems)}; save the complete state dict of an unchanged model"


def _first(keys: list[str]) -> str:
    return f"{', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"


def _require_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise CompanionError(
                f"{path}: tensor {key} has values that are not finite, so the file is damaged or its training "
                "diverged; use other weights"
            )


def companion_identity(path: str | Path) -> WeightsIdentity | None:
    """The identity in a file of the companion; None for any other file. Raises CompanionError if it is damaged."""
    metadata = _metadata(path)
    return WeightsIdentity.from_metadata(metadata, path) if METADATA_KEY in metadata else None


def _metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as stream:
            return stream.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return {}


def network_of(found: Shapes, form: str, num_classes: int) -> tuple[str, float]:
    """Model of the paper and width that share most tensors by name and shape, relative to all tensors of both."""
    stages = _stage_widths(found)

    def likeness(network: tuple[str, float]) -> float:
        expected = _expected(network[0], form, num_classes, network[1])
        same = sum(expected.get(key) == shape for key, shape in found.items())
        return same / (len(expected) + len(found) - same)

    return max(((model, width_of(require_model(model), stages)) for model in REPVGG_MODELS), key=likeness)


def _stage_widths(found: Shapes) -> tuple[int, ...]:
    """Output channels of the first layer of each stage, 0 where it is missing."""
    firsts = ("stage0", "stage1.0", "stage2.0", "stage3.0", "stage4.0")
    layers = ([f"{first}.{name}.weight" for name in ("rbr_dense.conv", "rbr_reparam")] for first in firsts)
    return tuple(next((found[key][0] for key in keys if found.get(key)), 0) for keys in layers)
