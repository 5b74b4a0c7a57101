"""In: a weights file of anyone. Out: its tensors by name, wrappers and prefixes removed, and nothing executed.

`.safetensors` holds tensors only. `.pth`, `.pt`, `.bin` are pickles and read with `weights_only=True`: a file that
needs more is refused.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repvgg_companion.errors import CompanionError

# Where trainers put the state dict, in the order of preference; the averaged weights only where nothing else is there.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "module", "ema_state_dict", "state_dict_ema",
             "model_ema", "ema")  # fmt: skip
# Put before every key by DataParallel, torch.compile and weight averaging.
_PREFIX = re.compile(r"(?:module\.|_orig_mod\.)+")
_OUTER_PREFIX = re.compile(
    r"(?:model|net)\.(?=(?:module\.|_orig_mod\.)*(?:stage\d|stages\.|stem\.|backbone\.|linear\.|head\.))"
)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU, each with its own type.

    Raises CompanionError with the reason and the way out where the file is missing, damaged, would need to run code, or
    holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CompanionError(
            f"{path} {'is a folder; name the weights file in it' if path.is_dir() else 'does not exist'}"
        )
    with path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise CompanionError(f"{path} is empty; download it again")
    # First, because the length of a safetensors header may begin with the same bytes as a web page.
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.lstrip()[:1] == b"<":
        raise CompanionError(f"{path} is a web page, not a weights file; download the file that its link points to")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return unwrap(_read_pickle(path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CompanionError(f"{path} is not readable as safetensors ({error}); download it again") from None
    return strip_prefixes(tensors)


def _read_pickle(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise CompanionError(f"{path} is a TorchScript program; save model.state_dict() instead")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|import of|global)\s+[`'\"]?([\w.]+)", str(error))
        needs = f" ({wanted[1]})" if wanted and "." in wanted[1] else ""
        raise CompanionError(
            f"{path} holds more than tensors{needs} or is damaged, and reading that would run code; load it where you "
            "trust it and save its state dict alone with torch.save(model.state_dict(), FILE)"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CompanionError(f"{path} is not readable as a PyTorch file ({reason}); download it again") from None


def unwrap(value: Any, path: object = "the file") -> dict[str, Tensor]:
    """The state dict inside the wrappers of trainers, prefixes stripped. Raises CompanionError where there is none."""
    for _ in range(4):
        if not isinstance(value, Mapping):
            raise CompanionError(f"{path} holds a {type(value).__name__} and no state dict; save model.state_dict()")
        if value and all(isinstance(item, Tensor) for item in value.values()):
            return strip_prefixes({str(key): tensor for key, tensor in value.items()})
        inner = next((value[name] for name in _WRAPPERS if isinstance(value.get(name), Mapping) and value[name]), None)
        if inner is None:
            break
        value = inner
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(value)[:5]) or "none"
        raise CompanionError(f"{path} holds no state dict (its keys: {keys}); save model.state_dict()")
    return strip_prefixes(tensors)


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove `module.` and `_orig_mod.` at the front of keys, also behind a front `model.`; nothing further inside.

    The step counter of averaged weights (`n_averaged`) is left out. Raises CompanionError where two keys become one.
    """
    stripped: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == "n_averaged":
            continue
        front = _PREFIX.match(key)
        name = key[front.end() :] if front else key
        if outer := _OUTER_PREFIX.match(name):
            name = name[outer.end() :]
            inner = _PREFIX.match(name)
            name = name[inner.end() :] if inner else name
        if name in stripped:
            raise CompanionError(f"the file holds {name} twice, with and without a prefix; save one state dict only")
        stripped[name] = tensor
    return stripped
