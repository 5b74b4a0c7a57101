"""Ways to run a network: module and example inputs go in, a call that does one batch comes out.

A backend that is not installed, or that a device does not have, raises `Unavailable` with the reason; the programme
then writes an empty row that says so and goes on.
"""

import itertools
import sys
from collections.abc import Callable

import torch
from torch import nn

from repvgg_companion.speed.engines import Unavailable, onnxruntime_call, openvino_call
from repvgg_companion.speed.fused import NotFusable, fuse
from repvgg_companion.speed.winograd import with_winograd

Call = Callable[[], object]

_COMPILED_AT_ONCE = 64
"""So many compiled networks of one class may live at once; a group holds far fewer."""


def make_call(
    backend: str, module: nn.Module, inputs: list[torch.Tensor], *, threads: int, precision: str = "fp32"
) -> Call:
    """A call that runs the next of `inputs` through `module` by `backend`; it returns the logits.

    Raises Unavailable with the reason where the machine lacks the backend.
    """
    if backend == "onnxruntime":
        return onnxruntime_call(module, inputs, threads)
    if backend == "openvino":
        return openvino_call(module, inputs, threads, precision)
    makers = {
        "eager": _eager,
        "fused": _fused,
        "cuda-graph": _cuda_graph,
        "fused-cuda-graph": lambda module, inputs: _cuda_graph(_fused_module(module, inputs), inputs),
        "compile": _compiled,
        "winograd": _winograd,
    }
    return makers[backend](module, inputs)


def _eager(module: nn.Module, inputs: list[torch.Tensor]) -> Call:
    upcoming = itertools.cycle(inputs)
    return lambda: module(next(upcoming))


def _fused_module(module: nn.Module, inputs: list[torch.Tensor]) -> nn.Module:
    try:
        return fuse(module, inputs[0])
    except NotFusable as error:
        raise Unavailable(f"the network has no fused form: {error}") from None


def _fused(module: nn.Module, inputs: list[torch.Tensor]) -> Call:
    return _eager(_fused_module(module, inputs), inputs)


def _cuda_graph(module: nn.Module, inputs: list[torch.Tensor]) -> Call:
    if inputs[0].device.type != "cuda":
        raise Unavailable("a CUDA graph needs a GPU")
    # Three runs on a side stream first: cuDNN chooses its algorithms there, which a capture must not do.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(inputs[0])
    torch.cuda.current_stream().wait_stream(stream)
    graphs, outputs, pool = [], [], None
    for images in inputs:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool):
                outputs.append(module(images))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.synchronize()  # raises where the device is lost and not only the capture
            raise Unavailable(f"the capture of a CUDA graph failed: {_first_line(error)}") from None
        pool = graph.pool()
        graphs.append(graph)
    upcoming = itertools.cycle(zip(graphs, outputs, strict=True))

    def call() -> torch.Tensor:
        graph, output = next(upcoming)
        graph.replay()
        return output

    # The graph holds the addresses of the weights only; the network must live as long as the call.
    call.network = module
    return call


def _compiled(module: nn.Module, inputs: list[torch.Tensor]) -> Call:
    try:
        from torch._dynamo import config as dynamo_config
        from torch._inductor import config
    except ImportError:
        raise Unavailable("torch.compile needs torch._inductor, which this torch lacks") from None
    on_gpu = inputs[0].device.type == "cuda"
    # Weights become constants and are laid out once. "max-autotune" searches kernels and uses CUDA graphs on a GPU; on
    # a CPU it would search for hours and gain nothing over oneDNN.
    # Networks of one class share its `forward`, of which torch keeps so many; the next would run eagerly, unsaid.
    limits = dynamo_config.patch(recompile_limit=_COMPILED_AT_ONCE, fail_on_recompile_limit_hit=True)
    with config.patch(freezing=True), limits:
        compiled = torch.compile(module, mode="max-autotune" if on_gpu else None, dynamic=False)
        try:
            # The mode of the calls below: another one would compile anew, without freezing.
            with torch.inference_mode():
                compiled(inputs[0])
        except Exception as error:
            raise Unavailable(f"torch.compile failed: {_first_line(error)}") from None
    upcoming = itertools.cycle(inputs)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return compiled(next(upcoming))

    return call


def forget_compiled() -> None:
    """Drop every network that torch.compile has compiled, with its copy of the weights."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def _winograd(module: nn.Module, inputs: list[torch.Tensor]) -> Call:
    if inputs[0].device.type != "cpu":
        raise Unavailable("on a GPU cuDNN chooses Winograd convolutions itself; this backend is for CPUs")
    if inputs[0].dtype != torch.float32:
        raise Unavailable("Winograd convolutions are measured in fp32 only; their sums lose digits of less")
    replaced = with_winograd(module, inputs[0])
    if replaced is None:
        raise Unavailable("at this batch size no convolution of the network gains from Winograd's algorithm")
    return _compiled(replaced, inputs)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
