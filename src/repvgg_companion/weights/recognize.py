"""In: a weights file. Out: which of the fourteen networks it is, in which layout and form, with official keys."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import REPVGG_MODELS, require_model
from repvgg_companion.weights.key_layouts import LAYOUTS, detect_form, detect_layout, to_official
from repvgg_companion.weights.published_files import check_digest, model_of_file_name
from repvgg_companion.weights.reading import read_tensors

METADATA_KEY = "repvgg_companion"


@dataclass(frozen=True)
class RecognizedWeights:
    """A weights file of anyone, understood: `state` has official keys; `digest_check` says what was compared."""

    path: str
    model: str
    form: str
    layout: str
    num_classes: int
    state: dict[str, Tensor]
    sha256: str
    digest_check: str
    width: float = 1.0


@cache
def _shapes(model: str, form: str, width: float) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = build_model(model, form=form, width=width)
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def _expected(model: str, form: str, num_classes: int, width: float) -> dict[str, tuple[int, ...]]:
    shapes = dict(_shapes(model, form, width))
    return shapes | {"linear.weight": (num_classes, shapes["linear.weight"][1]), "linear.bias": (num_classes,)}


def recognize(path: str | Path, *, model: str | None = None) -> RecognizedWeights:
    """Read a weights file and find its network by the names and shapes of its tensors.

    The digest is compared with the one known for the file's name. `model` says which network is expected. Counters of
    batches (`num_batches_tracked`), which no form uses in eval mode, are filled with 0 where a file has none at all.
    Raises CompanionError with the reason and the way out for a file that cannot be used, with the nearest model and the
    missing tensors where it almost fits.
    """
    sha256, digest_check = check_digest(path)
    tensors = read_tensors(path)
    layout = detect_layout(tensors)
    if layout is None:
        raise CompanionError(
            f"{path} holds no RepVGG in the layout of {', '.join(LAYOUTS)} (its first keys: "
            f"{', '.join(list(tensors)[:3])}); only weights of {REPVGG_MODELS[0]} to {REPVGG_MODELS[-1]} are read"
        )
    state, unknown = to_official(tensors, layout)
    try:
        form = detect_form(state)
    except CompanionError as error:
        raise CompanionError(f"{path}: {error}") from None
    num_classes = len(state["linear.bias"]) if "linear.bias" in state and state["linear.bias"].dim() == 1 else 1000
    if form == "train" and not any(key.endswith("num_batches_tracked") for key in state):
        norms = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
        state |= {f"{prefix}num_batches_tracked": torch.zeros((), dtype=torch.int64) for prefix in norms}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    width = companion_width(path)
    nearest = _nearest(found, form, num_classes, width)
    if model is not None and require_model(model).name != nearest:
        if model not in REPVGG_MODELS:
            raise CompanionError(f"{path} cannot hold {model}: only the released kinds {', '.join(REPVGG_MODELS)} are")
        raise CompanionError(f"{path} is not {model} but, by its tensors, {nearest}; name that model or another file")
    expected = _expected(nearest, form, num_classes, width)
    missing = sorted(expected.keys() - found.keys())
    misshapen = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    surplus = sorted([*unknown, *(found.keys() - expected.keys())])
    if problems := [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("of another shape", misshapen), ("unknown", surplus))
        if keys
    ]:
        raise CompanionError(
            f"{path} fits no RepVGG: the nearest is {nearest} in {form} form ({layout} layout), with tensors "
            f"{', '.join(problems)}; save the complete state dict of an unchanged model"
        )
    named = model_of_file_name(path)
    if named is not None and named != nearest:
        raise CompanionError(f"{path} has the name of {named} but holds {nearest}; give it its own name")
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CompanionError(f"{path}: tensor {key} has values that are not finite; download it again")
    return RecognizedWeights(str(path), nearest, form, layout, num_classes, state, sha256, digest_check, width)


def companion_width(path: str | Path) -> float:
    """The width factor of a file of this companion; 1 for any other file, since released networks are full."""
    from safetensors import SafetensorError, safe_open

    if Path(path).suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="pt") as stream:
                if METADATA_KEY in (stream.metadata() or {}):
                    return WeightsIdentity.from_metadata(stream.metadata(), path).width
        except (SafetensorError, OSError, ValueError):
            pass
    return 1.0


def _nearest(found: dict[str, tuple[int, ...]], form: str, num_classes: int, width: float) -> str:
    """The network that shares most tensors by name and shape, relative to all tensors of both."""

    def likeness(model: str) -> float:
        expected = _expected(model, form, num_classes, width)
        same = sum(expected.get(key) == shape for key, shape in found.items())
        return same / (len(expected) + len(found) - same)

    return max(REPVGG_MODELS, key=likeness)
