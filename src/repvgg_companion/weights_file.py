"""Reading and writing our own weights files: safetensors with the identity inside."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path
from repvgg_companion.identity import WeightsIdentity

if TYPE_CHECKING:
    import torch


def save_weights(path: str | Path, state: "dict[str, torch.Tensor]", identity: WeightsIdentity) -> None:
    """Write a state dict as safetensors by rename; the same tensors and identity give the same bytes."""
    save_tensors(path, dict(sorted(state.items())), identity.metadata())


def save_tensors(path: str | Path, tensors: "dict[str, torch.Tensor]", metadata: dict[str, str]) -> None:
    """Write tensors of any device and layout as safetensors by rename; raises CompanionError where the disk is full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(packed, str(temporary), metadata=metadata)
        except SafetensorError as error:  # it hides the operating system's error in its text
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load_weights(path: str | Path) -> "tuple[dict[str, torch.Tensor], WeightsIdentity]":
    """Read a state dict and its identity; raises CompanionError naming the file where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            identity = WeightsIdentity.from_metadata(stream.metadata(), path)
            return {name: stream.get_tensor(name) for name in stream.keys()}, identity  # noqa: SIM118
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise CompanionError(f"{path} is not readable as safetensors ({error}); remove it and run again") from None
