"""What torch knows about a device: data types, memory, waiting, and the precision that its hardware is made for."""

import gc
import os
from pathlib import Path

import torch

from repvgg_companion.errors import CompanionError

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Data type of convolutions and their outputs, by precision."""
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""Memory formats of images, by the project's names."""
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def best_precision(device: torch.device) -> str:
    """bf16 where the hardware computes in it, else fp16 on a GPU (with a gradient scaler) and fp32 on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware (AVX512-BF16, AMX or Arm's BF16); emulation is slower than fp32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is used up."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    )


def free_memory(kind: str) -> None:
    """Give the memory of unreferenced objects back to the system."""
    gc.collect()
    if kind == "cuda":
        torch.cuda.empty_cache()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which the network computes; weights, gradients and optimizer stay in float32."""
    dtype = None if precision == "fp32" else DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=True)


def set_precision(precision: str, device: str) -> None:
    """Switch TF32 on or off and the algorithm search of cuDNN on.

    Raises CompanionError if the device does not have the precision.
    """
    if device == "cpu":
        if precision == "tf32":
            raise CompanionError("a CPU has no tf32; use fp32, bf16 or fp16")
        if precision == "fp16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
            raise CompanionError("this CPU has no fp16 instructions; use fp32 or bf16")
        return
    if precision in ("tf32", "bf16") and torch.cuda.get_device_capability() < (8, 0):
        raise CompanionError(f"{torch.cuda.get_device_name()} has no {precision}; use fp32 or fp16")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def set_training_convolutions(device: torch.device, *, deterministic: bool) -> None:
    """How a training computes convolutions on a GPU: fp32 is fp32, not TF32, torch's default.

    cuDNN searches for its fastest algorithms, as in the authors' `train.py`, or uses deterministic ones only. Without
    them a training that is stopped and continued gives the same weights up to rounding, not bit for bit.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work; on a CPU nothing is pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
