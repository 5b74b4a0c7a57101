"""Ways to run a network on batches of a given shape.

A backend that is not installed, or that a device does not have, raises `Unavailable` with the reason; the row of the
network stays empty and names it.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from repvgg_companion.speed.engines import Unavailable, onnxruntime_call, openvino_call
from repvgg_companion.speed.fused import NotFusable, count_fused, fuse, ways_of
from repvgg_companion.speed.winograd import with_winograd

Call = Callable[[], object]

_COMPILED_AT_ONCE = 64
"""How many compiled networks of one class may live at once; a group holds far fewer."""
_CAPPED_SINCE = (2, 13)
"""Earlier versions of torch may choose a Triton template that miscompiles 3x3 convolutions with 8 warps."""


@dataclass
class PreparedCall:
    """A network that is ready to run: each `run` does the next batch and returns the logits."""

    run: Call
    graphed: nn.Module | None = None
    """The network that a CUDA graph replays."""
    fused_operators: tuple[int, int] | None = None
    """Convolutions that run as one fused operator, and all that could."""
    ways: dict[str, int] = field(default_factory=dict)
    """How many convolutions a GPU computes in which way; see `fused.WAYS`."""

    def __call__(self) -> Any:
        """Do one batch."""
        return self.run()


def make_call(
    backend: str, module: nn.Module, inputs: list[torch.Tensor], *, threads: int, precision: str = "fp32"
) -> PreparedCall:
    """Prepare `module` to run on `inputs` in turn by `backend`.

    Raises Unavailable with the reason if the machine lacks the backend.
    """
    if backend == "onnxruntime":
        return PreparedCall(onnxruntime_call(module, inputs, threads))
    if backend == "openvino":
        return PreparedCall(openvino_call(module, inputs, threads, precision))
    makers = {
        "eager": _eager,
        "fused": lambda module, inputs: _with_fused(module, inputs, _eager),
        "cuda-graph": _cuda_graph,
        "fused-cuda-graph": lambda module, inputs: _with_fused(module, inputs, _cuda_graph),
        "compile": _compiled,
        "winograd": _winograd,
    }
    return makers[backend](module, inputs)


def _eager(module: nn.Module, inputs: list[torch.Tensor]) -> PreparedCall:
    upcoming = itertools.cycle(inputs)
    return PreparedCall(lambda: module(next(upcoming)))


def _with_fused(module: nn.Module, inputs: list[torch.Tensor], make: Callable[..., PreparedCall]) -> PreparedCall:
    try:
        fused = fuse(module, inputs[0])
    except NotFusable as error:
        raise Unavailable(f"the network has no fused form: {error}") from None
    number, total = count_fused(fused)
    if not number and (total or inputs[0].device.type != "cpu"):
        raise Unavailable(f"no fused operator serves any of its {total} convolutions with ReLU")
    call = make(fused, inputs)
    call.fused_operators, call.ways = (number, total), ways_of(fused)
    return call


def _cuda_graph(module: nn.Module, inputs: list[torch.Tensor]) -> PreparedCall:
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
    return PreparedCall(_Replay(module, inputs, graphs, outputs), graphed=module)


class _Replay:
    """Replays the graphs in turn. It keeps the weights and inputs alive, of which they hold only the addresses."""

    def __init__(self, module: nn.Module, inputs: list[torch.Tensor], graphs: list, outputs: list) -> None:
        self._held = (module, inputs)
        self._upcoming = itertools.cycle(zip(graphs, outputs, strict=True))

    def __call__(self) -> torch.Tensor:
        graph, output = next(self._upcoming)
        graph.replay()
        return output


def conv_backends(torch_version: str) -> str:
    """Where max-autotune may look for convolutions: only in ATen on versions of torch that lack the cap."""
    version = tuple(int(part) for part in torch_version.split(".")[:2])
    return "ATEN,TRITON" if version >= _CAPPED_SINCE else "ATEN"


def _compiled(module: nn.Module, inputs: list[torch.Tensor]) -> PreparedCall:
    try:
        from torch._dynamo import config as dynamo_config
        from torch._inductor import config
    except ImportError:
        raise Unavailable("torch.compile needs torch._inductor, which this torch lacks") from None
    on_gpu = inputs[0].device.type == "cuda"
    # Weights become constants and are laid out once. "max-autotune" searches kernels and uses CUDA graphs on a GPU; on
    # a CPU it would search for hours and gain nothing over oneDNN.
    # torch caps recompilations per class; past the cap it silently runs eagerly.
    choices = {"freezing": True, "max_autotune_conv_backends": conv_backends(torch.__version__)}
    limits = dynamo_config.patch(recompile_limit=_COMPILED_AT_ONCE, fail_on_recompile_limit_hit=True)
    with config.patch(choices), limits:
        compiled = torch.compile(module, mode="max-autotune" if on_gpu else None, dynamic=False)
        try:
            # The mode of the calls below: in another mode torch would compile again, without freezing.
            with torch.inference_mode():
                compiled(inputs[0])
        except Exception as error:
            raise Unavailable(f"torch.compile failed: {_first_line(error)}") from None
    upcoming = itertools.cycle(inputs)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return compiled(next(upcoming))

    return PreparedCall(call)


def forget_compiled() -> None:
    """Drop every network that torch.compile has compiled, with its copy of the weights."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def _winograd(module: nn.Module, inputs: list[torch.Tensor]) -> PreparedCall:
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
