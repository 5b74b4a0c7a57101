"""Write recognized weights in any layout: the same tensors, bit for bit, under other keys."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, canonical_json
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.names import require_model, stage_widths
from repvgg_companion.weights.key_layouts import from_official
from repvgg_companion.weights.recognize import NETWORK_KEY, RecognizedWeights, network_of
from repvgg_companion.weights_file import save_tensors, save_weights

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def identity_of(weights: RecognizedWeights, dataset: str) -> WeightsIdentity:
    """The identity of imported weights: recipe `released`, training digest `released_<8 digits>`, seed `none`."""
    return WeightsIdentity(
        dataset=dataset,
        dataset_sha256="",
        model=weights.model,
        width=weights.width,
        num_classes=weights.num_classes,
        recipe="released",
        training_digest=f"released_{weights.sha256[:8]}",
        seed="none",
        input_px=weights.input_px or require_model(weights.model).test_px,
        form=weights.form,
        note=f"imported from {Path(weights.path).name} ({weights.layout} layout), SHA-256 {weights.sha256}",
    )


def companion_path(weights_folder: str | Path, identity: WeightsIdentity) -> Path:
    """Where imported weights are kept: DATASET/MODEL/released_<8 digits>/seednone/FORM.safetensors."""
    folder = Path(weights_folder) / identity.dataset / identity.model / identity.training_digest / "seednone"
    return folder / f"{identity.form}.safetensors"


def write_companion(weights: RecognizedWeights, path: str | Path, dataset: str) -> None:
    """Write a file of the companion: official keys, float32 (exact for half precision too), the identity inside."""
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in weights.state.items()}
    save_weights(path, state, identity_of(weights, dataset))


def write_network(weights: RecognizedWeights, layout: str, path: Path) -> bool:
    """Write recognized weights in `layout`; returns whether `recognize` finds the same network in the file.

    Where the tensors do not tell it, a safetensors file names it in its metadata. Raises CompanionError like
    `write_layout`, and for a network that the layout has no names for.
    """
    _require_layout(weights, layout)
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.state.items()}
    model, width = network_of(shapes, weights.form, weights.num_classes)
    spec = require_model(model)
    same_width = stage_widths(spec.a, spec.b, width) == stage_widths(spec.a, spec.b, weights.width)
    is_told = model == weights.model and same_width
    named = {} if is_told else {NETWORK_KEY: canonical_json({"model": weights.model, "width": weights.width})}
    write_layout(weights.state, layout, path, named)
    return is_told or path.suffix == ".safetensors"


def write_layout(
    state: Mapping[str, Tensor], layout: str, path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors with official keys in `layout`, as safetensors or PyTorch file by the suffix of `path`.

    `metadata` are added to those of a safetensors file. mmpretrain's PyTorch files wrap the tensors, `{'meta': {},
    'state_dict': ...}`. Raises CompanionError for another suffix, and if `path` exists.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise CompanionError(f"{path}: the suffix decides the format and must be one of {', '.join(_SUFFIXES)}")
    if path.exists():
        raise CompanionError(f"{path} exists already and is not overwritten; give another --output")
    renamed = {key: tensor.contiguous() for key, tensor in from_official(state, layout).items()}
    if path.suffix == ".safetensors":
        save_tensors(path, renamed, {"format": "pt", **(metadata or {})})
        return
    with atomic_path(path) as temporary:
        torch.save({"meta": {}, "state_dict": renamed} if layout == "mmpretrain" else renamed, temporary)


def _require_layout(weights: RecognizedWeights, layout: str) -> None:
    """Raise CompanionError for a network of another family, or branches of Tables 6 and 7 that the layout lacks."""
    spec = require_model(weights.model)
    if spec.family == "RepVGG" and not (spec.variation and weights.form == "train"):
        return
    why = f"an ordinary {'RepVGG' if spec.family == 'RepVGG' else 'RepVGG, and this is a ' + spec.family}"
    instead = "convert its deploy form" if spec.family == "RepVGG" and spec.convertible else "use --to companion"
    raise CompanionError(
        f"{weights.path} holds {weights.model} in {weights.form} form, but the layout of {layout} has names only for "
        f"{why}; {instead}"
    )
