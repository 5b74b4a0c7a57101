"""Read the tensors of anyone's weights file without running code from it.

`.safetensors` files hold tensors only. PyTorch files (`.pth`, `.pt`, `.bin`) are pickles: they are read with
`weights_only=True`, and a file that needs more is refused.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repvgg_companion.errors import CompanionError, one_line
from repvgg_companion.files import READ_BYTES
from repvgg_companion.weights_file import kind_of_file

# Keys under which trainers store the state dict, in order of preference; averaged weights only if there are no others.
_WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "module",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU, each with its own type.

    Raises CompanionError if the file is missing, damaged, would need to run code, or holds no state dict.
    """
    path = Path(path)
    kind = kind_of_file(path)
    if kind == "empty":
        raise CompanionError(f"{path} is empty; name a complete weights file")
    if kind == "web page":
        raise CompanionError(f"{path} is a web page, not a weights file; download the file that its link points to")
    if kind == "safetensors" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if kind == "unknown":
        raise CompanionError(f"{path} is neither a safetensors nor a PyTorch file; name a weights file")
    return unwrap(_read_pickle(path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CompanionError(f"{path} is damaged or not a safetensors file ({error}); use an undamaged copy") from None


def _read_pickle(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        _check_entries(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|import of|global)\s+[`'\"]?([\w.]+)", str(error))
        needs = f" ({wanted[1]})" if wanted and "." in wanted[1] else ""
        raise CompanionError(
            f"{path} holds more than tensors{needs} or is damaged, and reading that would run code; load it on a "
            "machine where you trust it and save its state dict alone with torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CompanionError(f"{path} is damaged or not a PyTorch file ({reason}); use an undamaged copy") from None


def _check_entries(path: Path) -> None:
    """Compare the CRC-32 of every entry of a PyTorch file, which torch does not; refuse TorchScript programs."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("constants.pkl") for entry in entries):
            raise CompanionError(f"{path} is a TorchScript program; save model.state_dict() instead")
        if not any(entry.CRC for entry in entries):
            return  # written with torch.serialization.set_crc32_options(False)
        for entry in entries:
            try:
                with archive.open(entry) as stream:
                    while stream.read(READ_BYTES):
                        pass
            except Exception as error:  # damaged headers raise almost anything
                raise CompanionError(
                    f"{path} is damaged: its entry {entry.filename} cannot be read or differs from its checksum "
                    f"({one_line(error)}); use an undamaged copy"
                ) from None


def unwrap(value: Any, path: object = "the file") -> dict[str, Tensor]:
    """The state dict inside the wrappers of trainers. Raises CompanionError if there is none."""
    for _ in range(4):
        if not isinstance(value, Mapping):
            raise CompanionError(f"{path} holds a {type(value).__name__} and no state dict; save model.state_dict()")
        if value and all(isinstance(item, Tensor) for item in value.values()):
            break
        inner = next((value[name] for name in _WRAPPERS if isinstance(value.get(name), Mapping) and value[name]), None)
        if inner is None:
            break
        value = inner
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(value)[:5]) or "none"
        raise CompanionError(f"{path} holds no state dict (its keys: {keys}); save model.state_dict()")
    return tensors
