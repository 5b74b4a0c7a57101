"""Read and write the companion's own weights files: safetensors with the identity of the weights inside."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path
from repvgg_companion.identity import WeightsIdentity

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def save_weights(path: str | Path, state: "Mapping[str, Tensor]", identity: WeightsIdentity) -> None:
    """Write a state dict as safetensors by rename; the same tensors and identity give the same bytes."""
    save_tensors(path, dict(sorted(state.items())), identity.metadata())


def save_tensors(path: str | Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str]) -> None:
    """Write tensors of any device and memory layout as safetensors by rename.

    Raises CompanionError if the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(_with_own_memory(tensors), str(temporary), metadata=metadata)
        except SafetensorError as error:  # the operating system's error is only in its text
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def _with_own_memory(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors on the CPU, contiguous, no two in the same memory: safetensors refuses shared memory."""
    packed, taken = {}, set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        packed[name] = own.clone() if place in taken else own
        taken.add(place)
    return packed


def load_weights(path: str | Path) -> "tuple[dict[str, Tensor], WeightsIdentity]":
    """Read a state dict and its identity.

    Raises CompanionError naming the file if it cannot be read, has no identity, or holds tensors that no network of
    the companion can have.
    """
    with _opened(path, "pt") as stream:
        identity = WeightsIdentity.from_metadata(stream.metadata(), path)
        state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    require_sound(state, path)
    return state, identity


def read_header(path: str | Path) -> tuple[WeightsIdentity, dict[str, tuple[int, ...]]]:
    """The identity in a file of the companion and the shape of each tensor, without reading any; needs no torch.

    Raises CompanionError naming the file if it cannot be read or has no identity.
    """
    with _opened(path, "np") as stream:
        shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
        return WeightsIdentity.from_metadata(stream.metadata(), path), shapes


@contextlib.contextmanager
def _opened(path: str | Path, framework: str) -> Iterator[Any]:
    """A safetensors file open to be read by torch (`pt`) or NumPy (`np`); failures are sentences that name it."""
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise CompanionError(f"{path} is a folder; name the weights file in it")
    try:
        with safe_open(str(path), framework=framework, device="cpu") as stream:
            yield stream
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; correct the path") from None
    except (SafetensorError, OSError) as error:
        if Path(path).is_file() and kind_of_file(path) == "pytorch":
            raise CompanionError(
                f"{path} is a PyTorch file, not a weights file of this companion; convert it first with "
                f"'python -m repvgg_companion weights convert {path} --to companion --output FILE.safetensors'"
            ) from None
        raise CompanionError(f"{path} is damaged or not a safetensors file ({error}); use an undamaged copy") from None


def stored_parameters(shapes: Mapping[str, Sequence[int]]) -> int:
    """The number of parameter values in a file, from the shapes of its tensors; batch-norm statistics do not count."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(buffers))


def is_weights_file(path: str | Path) -> bool:
    """Whether a file that exists is one of weights, by its name or by its first bytes."""
    return Path(path).suffix in WEIGHTS_SUFFIXES or kind_of_file(path) in ("safetensors", "pytorch")


def kind_of_file(path: str | Path) -> str:
    """`safetensors`, `pytorch`, `web page`, `empty` or `unknown`, from the first bytes; nothing is unpickled."""
    with Path(path).open("rb") as stream:
        head = stream.read(16)
    if not head:
        return "empty"
    # Before the web page, because the length of a safetensors header may begin with the same bytes as one.
    if head[8:9] == b"{":
        return "safetensors"
    if head.lstrip()[:1] == b"<":
        return "web page"
    # A ZIP archive, or a pickle of protocol 2 or later as older versions of torch.save wrote it.
    return "pytorch" if head.startswith((b"PK\x03\x04", b"\x80")) else "unknown"


def require_sound(state: "Mapping[str, Tensor]", path: object) -> None:
    """Raise CompanionError if a tensor is sparse, has no values, holds other than floats, or is a negative variance.

    Only the counters of batches, `num_batches_tracked`, may be integers.
    """
    import torch

    for key, tensor in state.items():
        where = f"{path}: tensor {key}"
        if tensor.layout != torch.strided:
            raise CompanionError(f"{where} is stored as sparse; save it as a dense tensor with tensor.to_dense()")
        if tensor.device.type == "meta":
            raise CompanionError(f"{where} has a shape but no values; save the weights themselves")
        if not tensor.is_floating_point() and not key.endswith("num_batches_tracked"):
            raise CompanionError(
                f"{where} holds {str(tensor.dtype).removeprefix('torch.')} values, not floating-point numbers; "
                "quantized networks cannot be used, save the floating-point network"
            )
        if key.endswith("running_var") and bool((tensor < 0).any()):
            raise CompanionError(
                f"{where} has negative variances, so the file is damaged or wrongly converted; use an undamaged copy"
            )
