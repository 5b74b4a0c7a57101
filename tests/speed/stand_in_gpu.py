"""A GPU for the tests of machines without one: the control flow and every call into torch and NVML, no speed.

A tensor on the stand-in lies in the CPU's memory and says that it is on `cuda`; events read the wall clock; a graph
runs its function once, at capture; cuDNN's fused operators take exactly the arguments of their schemas and refuse
groups; NVML answers for one H100. A name or a parameter that this torch or this nvidia-ml-py lacks is an error at once.
"""

import contextlib
import inspect
import os
import time
import types

import pynvml
import torch
from torch.overrides import TorchFunctionMode

NAME = "NVIDIA H100 80GB HBM3"
UUID = "00000000-1111-2222-3333-444444444444"
LABEL = "gpu-nvidia-h100-80gb-hbm3-700w"
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
_DEVICE_OF = torch.Tensor.device.__get__


def _on_cpu(value):
    named = isinstance(value, str) and value.partition(":")[0] == "cuda"
    return CPU if named or (isinstance(value, torch.device) and value.type == "cuda") else value


class _Redirect(TorchFunctionMode):
    """Sends what is meant for the GPU to the CPU; floating-point tensors say that they are on the GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if func is _DEVICE_OF or func == _DEVICE_OF:
            device = func(*args)
            return GPU if device == CPU and args[0].is_floating_point() else device
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if name in ("pin_memory", "cuda") and isinstance(args[0], torch.Tensor):
            return args[0]
        if name == "backward":  # the CPU's own kernels: oneDNN's damage the heap, see training/cpu_kernels.py
            with torch.backends.mkldnn.flags(enabled=False):
                return func(*args, **(kwargs or {}))
        moved = {key: _on_cpu(value) for key, value in (kwargs or {}).items() if key != "pin_memory"}
        return func(*map(_on_cpu, args), **moved)


class _Event:
    def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
        self.timed, self.seconds = enable_timing, None

    def record(self, stream=None):
        self.seconds = time.perf_counter()

    def synchronize(self):
        assert self.seconds is not None, "waited for an event that was not recorded"

    def elapsed_time(self, end_event):
        assert self.timed and end_event.timed, "an event without enable_timing has no time"
        return 1e3 * (end_event.seconds - self.seconds)


class _Stream:
    def wait_stream(self, stream):
        assert isinstance(stream, _Stream)


class _Graph:
    captured = False

    def replay(self):
        assert self.captured, "a graph is replayed that was not captured"

    def pool(self):
        return (0, 7)


@contextlib.contextmanager
def _capture(cuda_graph, pool=None, stream=None, capture_error_mode="global"):
    assert not cuda_graph.captured
    yield
    cuda_graph.captured = True


def _checked(operator, run):
    """A fused operator of cuDNN: its arguments must be those of the schema, in number and kind."""
    arguments = getattr(torch.ops.aten, operator).default._schema.arguments

    def call(*values):
        assert len(values) == len(arguments), f"{operator} takes {[argument.name for argument in arguments]}"
        for argument, value in zip(arguments, values, strict=True):
            kind = str(argument.type)
            right = torch.Tensor if "Tensor" in kind else list if "List" in kind else int if kind == "int" else object
            assert isinstance(value, right) or (value is None and "Optional" in kind), f"{operator}: {argument.name}"
        if values[-1] > 1:
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED: grouped")
        return run(*values)

    return call


def _relu(images, weight, bias, stride, padding, dilation, groups):
    return torch.nn.functional.conv2d(images, weight, bias, stride, padding, dilation, groups).relu_()


def _add_relu(images, weight, other, alpha, bias, *geometry):
    return torch.nn.functional.conv2d(images, weight, bias, *geometry).add_(other, alpha=alpha).relu_()


def _answer(value):
    return lambda *_, **__: value


@contextlib.contextmanager
def stand_in_gpu(monkeypatch):
    """One H100 as torch and NVML see it."""
    memory = types.SimpleNamespace(uuid=UUID, name=NAME, major=9, minor=0, multi_processor_count=132)
    stream = _Stream()
    cuda = {
        "is_available": _answer(True), "device_count": _answer(1), "current_device": _answer(0),
        "get_device_name": _answer(NAME), "get_device_capability": _answer((9, 0)),
        "get_device_properties": _answer(memory), "is_bf16_supported": _answer(True), "set_device": _answer(None),
        "synchronize": _answer(None), "empty_cache": _answer(None), "memory_allocated": _answer(1 << 21),
        "max_memory_allocated": _answer(3 << 21), "reset_peak_memory_stats": _answer(None),
        "mem_get_info": _answer((1 << 36, 1 << 36)), "manual_seed": _answer(None), "manual_seed_all": _answer(None),
        "get_rng_state": _answer(torch.zeros(16, dtype=torch.uint8)), "set_rng_state": _answer(None),
        "Event": _Event, "Stream": _Stream, "CUDAGraph": _Graph, "graph": _capture,
        "stream": lambda stream: contextlib.nullcontext(), "current_stream": _answer(stream),
    }  # fmt: skip
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)  # fails for a name that this torch lacks
    autocast, generator = torch.autocast, torch.Generator

    class Autocast(autocast):  # a CPU trains in bf16 slowly, and some of its kernels are wrong
        def __init__(self, device_type, *rest, **options):
            known = inspect.signature(autocast.__init__).bind(self, device_type, *rest, **options)
            if device_type == "cuda":
                known.arguments |= {"device_type": "cpu", "enabled": False}
            super().__init__(*known.args[1:], **known.kwargs)

    class Generator:
        def __new__(cls, device="cpu"):
            return generator(_on_cpu(device))

    monkeypatch.setattr(torch, "autocast", Autocast)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", _checked("cudnn_convolution_relu", _relu))
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", _checked("cudnn_convolution_add_relu", _add_relu))
    _answer_for_nvml(monkeypatch)
    with _Redirect():
        yield


def _answer_for_nvml(monkeypatch):
    own = types.SimpleNamespace(pid=os.getpid())
    answers = {
        "Init": None, "Shutdown": None, "DeviceGetCount": 1, "DeviceGetHandleByIndex": "gpu",
        "DeviceGetHandleByUUID": "gpu", "DeviceGetUUID": f"GPU-{UUID}", "DeviceGetName": NAME,
        "SystemGetDriverVersion": "580.95", "DeviceGetClockInfo": 1755, "DeviceGetMaxClockInfo": 1980,
        "DeviceGetPowerUsage": 650_000, "DeviceGetEnforcedPowerLimit": 700_000, "DeviceGetTemperature": 60,
        "DeviceGetCurrentClocksThrottleReasons": 0x1, "DeviceGetComputeRunningProcesses": [own],
    }  # fmt: skip
    for name, value in answers.items():
        real = inspect.signature(inspect.unwrap(getattr(pynvml, f"nvml{name}")))

        def answer(*arguments, _real=real, _value=value):
            _real.bind(*arguments)
            return _value

        monkeypatch.setattr(pynvml, f"nvml{name}", answer)
