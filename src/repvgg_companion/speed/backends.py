"""Ways to run a network: module and example inputs go in, a call that does one batch comes out.

A backend that is not installed, or that a device does not have, raises `Unavailable` with the reason; the programme
then writes an empty row that says so and goes on.
"""

import itertools
from collections.abc import Callable

import torch
from torch import nn

Call = Callable[[], object]


class Unavailable(Exception):
    """Why a condition cannot be measured on this machine, in one short phrase."""


def make_call(backend: str, module: nn.Module, inputs: list[torch.Tensor], *, threads: int) -> Call:
    """A call that runs the next of `inputs` through `module` by `backend`; raises Unavailable with the reason."""
    makers = {
        "eager": _eager,
        "fused": _fused,
        "cuda-graph": _cuda_graph,
        "compile": _compiled,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
    }
    return makers[backend](module, inputs, threads)


def _eager(module: nn.Module, inputs: list[torch.Tensor], threads: int) -> Call:
    upcoming = itertools.cycle(inputs)
    return lambda: module(next(upcoming))


def _cuda_graph(module: nn.Module, inputs: list[torch.Tensor], threads: int) -> Call:
    if inputs[0].device.type != "cuda":
        raise Unavailable("a CUDA graph needs a GPU")
    # Three runs on a side stream first: cuDNN chooses its algorithms there, which a capture must not do.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for images in [*inputs, *inputs, *inputs][: max(3, len(inputs))]:
            module(images)
    torch.cuda.current_stream().wait_stream(stream)
    graphs, pool = [], None
    for images in inputs:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            # The output must stay alive: its memory belongs to the graph.
            graph.kept_output = module(images)
        pool = graph.pool()
        graphs.append(graph)
    upcoming = itertools.cycle(graphs)
    return lambda: next(upcoming).replay()


def _compiled(module: nn.Module, inputs: list[torch.Tensor], threads: int) -> Call:
    try:
        from torch._inductor import config
    except ImportError:
        raise Unavailable("torch.compile needs torch._inductor, which this torch lacks") from None
    # Constants are folded and weights laid out once; "max-autotune" would search for hours on a CPU.
    with config.patch(freezing=True):
        mode = "max-autotune" if inputs[0].device.type == "cuda" else None
        compiled = torch.compile(module, mode=mode, dynamic=False)
        try:
            with torch.no_grad():
                compiled(inputs[0])
        except Exception as error:
            raise Unavailable(f"torch.compile failed: {_first_line(error)}") from None
    upcoming = itertools.cycle(inputs)
    return lambda: compiled(next(upcoming))


def _fused(module: nn.Module, inputs: list[torch.Tensor], threads: int) -> Call:
    raise Unavailable("not yet")


def _onnxruntime(module: nn.Module, inputs: list[torch.Tensor], threads: int) -> Call:
    raise Unavailable("not yet")


def _openvino(module: nn.Module, inputs: list[torch.Tensor], threads: int) -> Call:
    raise Unavailable("not yet")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
