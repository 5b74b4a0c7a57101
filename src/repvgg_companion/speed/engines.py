"""Inference engines beside torch: ONNX Runtime and OpenVINO, on the CPU.

Both are optional; a missing package is a reason for an empty row, not an error.
"""

import io
import itertools
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

Call = Callable[[], object]


class Unavailable(Exception):
    """Why a condition cannot be measured on this machine, in one short phrase."""


def onnx_bytes(module: nn.Module, images: torch.Tensor, free: Mapping[str, Mapping[int, str]] | None = None) -> bytes:
    """The network as an ONNX model for inputs of the shape of `images`; raises Unavailable without the exporter.

    `free` names its input and output, and the axes of each that may have any length.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed; install the extra 'backends'") from None
    import logging

    names: dict[str, Any] = {}
    if free:
        first, last = free
        names = {"input_names": [first], "output_names": [last], "dynamic_axes": {key: dict(free[key]) for key in free}}
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # The older exporter takes a tenth of the time; what it cannot export, the newer one may.
            export: Any = torch.onnx.export
            export(module, (images,), buffer, dynamo=False, verbose=False, **names)
            return buffer.getvalue()
        except Exception:
            buffer = io.BytesIO()
        try:
            program: Any = export(module, (images,), dynamo=True, verbose=False, optimize=True, **names)
        except Exception as error:
            raise Unavailable(f"the ONNX export failed ({type(error).__name__})") from None
        program.save(buffer)
    return buffer.getvalue()


def onnxruntime_call(module: nn.Module, inputs: list[torch.Tensor], threads: int) -> Call:
    """A call of ONNX Runtime on the CPU; raises Unavailable if it is not installed or lacks the precision."""
    try:
        import onnxruntime
    except ImportError:
        raise Unavailable("onnxruntime is not installed; install the extra 'backends'") from None
    _require_cpu(inputs, "ONNX Runtime")
    if inputs[0].dtype != torch.float32:
        raise Unavailable("ONNX Runtime on a CPU is measured in fp32 only")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Idle threads would spin beside the network that is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model = _onnx_of_one_image(module, inputs[0])
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    upcoming = itertools.cycle([{name: images.contiguous().numpy()} for images in inputs])
    return lambda: session.run(None, next(upcoming))[0]


def openvino_call(module: nn.Module, inputs: list[torch.Tensor], threads: int, precision: str) -> Call:
    """A call of OpenVINO on the CPU in fp32 or bf16; raises Unavailable if it is not installed."""
    try:
        import openvino
    except ImportError:
        raise Unavailable("openvino is not installed; install the extra 'backends'") from None
    _require_cpu(inputs, "OpenVINO")
    hints = {"fp32": "f32", "bf16": "bf16"}
    if precision not in hints:
        raise Unavailable(f"OpenVINO on a CPU is measured in fp32 and bf16, not in {precision}")
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise Unavailable("this CPU has no bf16 instructions")
    core = _core_of(openvino.Core)
    model = core.read_model(io.BytesIO(_onnx_of_one_image(module.float(), inputs[0].float())))
    model.reshape(list(inputs[0].shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": hints[precision],
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    upcoming = itertools.cycle([images.float().contiguous().numpy() for images in inputs])

    def call() -> object:
        return request.infer([next(upcoming)], share_inputs=True, share_outputs=True)[0]

    return call


def _onnx_of_one_image(module: nn.Module, images: torch.Tensor) -> bytes:
    """The network as an ONNX model for any batch size: the export runs the network, and a batch may take seconds."""
    return onnx_bytes(module, images[:1], {"images": {0: "batch"}, "logits": {0: "batch"}})


@cache
def _core_of(make: Callable[[], Any]) -> Any:
    """The only core of OpenVINO in this process.

    Each core gives the thread an alternative signal stack and frees it when it is destroyed. With several cores a freed
    stack stays in use, and the next signal (Ctrl-C, a timer) crashes the process.
    """
    return make()


def _require_cpu(inputs: list[torch.Tensor], engine: str) -> None:
    if inputs[0].device.type != "cpu":
        raise Unavailable(f"{engine} is measured on CPUs only")
