"""From a network to a call that can be timed: weights, precision, memory format, backend, and the check of its output.

A failure of one network (no such backend, out of memory, no such precision, wrong logits) becomes the reason of its
empty row; the others go on.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.torch_device import cpu_has_bf16, free_memory, is_out_of_memory, set_precision
from repvgg_companion.speed.backends import PreparedCall, make_call
from repvgg_companion.speed.clocks import clock_for
from repvgg_companion.speed.engines import Unavailable
from repvgg_companion.speed.group_record import MeasuredNetwork, format_key
from repvgg_companion.speed.harness import Subject
from repvgg_companion.speed.networks import Inputs, Measurable, prepare
from repvgg_companion.speed.peak_memory import held_mib, peak_call_mib
from repvgg_companion.speed.programme import Condition, Method
from repvgg_companion.speed.speed_settings import ENGINES, MEMORY_FORMATS

OUTPUT_LIMITS = {"fp32": 1e-4, "tf32": 1e-3, "fp16": 1e-2, "bf16": 3e-2}
"""How far the logits of a backend may be from eager's, relative to the largest logit."""
_OWN_ERRORS = 4
"""A network that amplifies rounding may be this many times as far from eager as eager is from float64."""


@dataclass
class Known:
    """What earlier groups of a run have found, so that it is not computed again for each backend."""

    formats: dict[tuple, str] = field(default_factory=dict)
    """The faster memory format, by `format_key`."""
    logits: dict[tuple, torch.Tensor] = field(default_factory=dict)
    """Eager's logits of the images that are checked, by network and condition."""

    def format_of(self, network: Measurable, condition: Condition) -> str | None:
        """The memory format that a condition names or an earlier probe found; None if it must be probed."""
        if condition.memory_format != "probe":
            return condition.memory_format
        return self.formats.get(format_key(asdict(condition), network.model, network.form))


def prepared(
    network: Measurable, condition: Condition, method: Method, known: Known
) -> tuple[MeasuredNetwork, Subject | None]:
    """A network of a group and its call; without a call its `reason` says why it cannot be measured.

    Adds eager's logits to `known`.
    """
    px = network.input_px(method.input_px)
    memory_format = known.format_of(network, condition) or "channels_last"
    member = MeasuredNetwork(network.model, network.form, memory_format, px)
    if is_too_slow(network, condition, method):
        member.reason = (
            "this CPU has no bf16 instructions and is slower in bf16 than in fp32; "
            f"{' and '.join(method.emulated or ())} at batch 1 show by how much"
        )
        return member, None
    try:
        call, checked_s = _call(network, condition, method, member, known)
        return member, Subject(network.name, call, checked_s=checked_s)
    except (Unavailable, CompanionError) as error:
        member.reason = str(error)
    except RuntimeError as error:
        member.reason = failure(error, condition)
    # Here, where the exception and with it the frames that held the network are gone.
    free_memory(method.kind)
    return member, None


def is_too_slow(network: Measurable, condition: Condition, method: Method) -> bool:
    """Whether a network is in bf16 on a CPU that emulates it, and not one of `method.emulated`."""
    if condition.precision != "bf16" or method.kind != "cpu" or method.emulated is None or cpu_has_bf16():
        return False
    return network.model not in method.emulated or condition.batch_size > 1


def failure(error: RuntimeError, condition: Condition) -> str:
    """Why a network was not measured; an error that leaves the device unusable is raised again."""
    if is_out_of_memory(error):
        return f"out of memory at batch {condition.batch_size}"
    if isinstance(error, torch.AcceleratorError):
        raise error
    return f"{condition.backend} failed ({(str(error).splitlines() or [''])[0][:150]})"


def _call(
    network: Measurable, condition: Condition, method: Method, member: MeasuredNetwork, known: Known
) -> tuple[Callable[[], object], float]:
    """The call of a network, and the seconds of its first call, which checks the output."""
    began = time.monotonic()
    set_precision(condition.precision, method.kind)
    module = network.build(device=method.kind, seed=method.seed)
    if known.format_of(network, condition) is None:
        member.memory_format, member.probe_s = probe(module, network, condition, method)
    prepare(module, precision=condition.precision, memory_format=member.memory_format)
    inputs = _inputs(network, condition, method, member.memory_format).draw(network.buffers(condition.batch_size))
    member.phases_s["build"] = time.monotonic() - began
    began = time.monotonic()
    # On a CPU the first and the last image: a batch of a large network takes seconds.
    step = 1 if method.kind == "cuda" else max(condition.batch_size - 1, 1)
    key = (network, member.input_px, condition.precision, condition.batch_size, method.seed)
    expected = known.logits.get(key)
    if expected is None and condition.backend != "eager":
        expected = torch.as_tensor(module(inputs[0][::step])).float().clone()
    in_place = condition.backend == "openvino" and condition.precision != "fp32"  # it makes the module fp32
    exact = copy.deepcopy(module) if in_place else module
    call = make_call(condition.backend, module, inputs, threads=method.threads, precision=condition.precision)
    member.fused_operators, member.ways = call.fused_operators, call.ways
    sees = sees_memory(condition.backend, method.kind)
    outputs: list[torch.Tensor] = []
    peak_mib = None
    entered = time.monotonic()
    if sees and method.kind == "cpu":  # this call also shows the memory, since another one may take seconds
        peak_mib = peak_call_mib(lambda: outputs.append(call()), method.kind)
    else:
        outputs.append(call())
    checked_s = time.monotonic() - entered
    found = torch.as_tensor(outputs.pop())[::step].float().to(inputs[0].device)
    eager = found.clone() if expected is None else expected
    member.output_error = check_output(found, eager, condition.precision, lambda: _own_error(exact, inputs[0], eager))
    if eager.dim() == 2:  # maps of features would take much memory
        known.logits[key] = eager
    member.phases_s["first calls"] = time.monotonic() - began
    if sees:
        if peak_mib is None:
            peak_mib = peak_call_mib(_once(call, inputs), method.kind)
        member.peak_memory_mib = held_mib(module, inputs) + peak_mib
    return call.run, checked_s


def check_output(found: torch.Tensor, expected: torch.Tensor, precision: str, own_error: Callable[[], float]) -> float:
    """The error of a prepared call's logits against eager's; raises Unavailable if they are wrong.

    `own_error` gives eager's own error against float64. It is asked only if the error is above the limit: in a network
    with random weights that amplifies rounding, such as RepVGG-D2se, all backends differ.
    """
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        raise Unavailable("the output is wrong: not finite, or of another shape than eager's")
    error = _relative(found, expected)
    limit = OUTPUT_LIMITS[precision]
    if error > limit and error > _OWN_ERRORS * own_error():
        raise Unavailable(f"the output is wrong: {error:.1e} from eager's, more than {limit:.0e} in {precision}")
    return error


def _own_error(module: nn.Module, images: torch.Tensor, expected: torch.Tensor) -> float:
    exact = copy.deepcopy(module).double()(images[:1].double())
    return _relative(expected[:1].double(), exact)


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def sees_memory(backend: str, kind: str) -> bool:
    """Whether torch's allocations during a call show its peak memory.

    Engines and the Winograd backend hold weights in a form of their own; a compiled network on a GPU replays a graph.
    """
    return backend not in (*ENGINES, "winograd") and not (backend == "compile" and kind == "cuda")


def _once(call: PreparedCall, inputs: list[torch.Tensor]) -> Callable[[], object]:
    """The call whose memory is measured: a CUDA graph took its memory when it was captured, so its network runs."""
    network = call.graphed
    return call.run if network is None else lambda: network(inputs[0])


def _inputs(network: Measurable, condition: Condition, method: Method, memory_format: str) -> Inputs:
    shape = network.input_shape(network.input_px(method.input_px))
    return Inputs(condition.batch_size, shape, condition.precision, memory_format, method.kind)


def probe(module: nn.Module, network: Measurable, condition: Condition, method: Method) -> tuple[str, dict[str, float]]:
    """The faster memory format of a network by the shortest of five calls each, and the times in seconds.

    Convolutions are fused in the probe if they are in the measurement; a graph or a compiler does not change which
    format is faster.
    """
    backend = "fused" if "fused" in condition.backend else "eager"
    clock, shortest = clock_for(method.kind), {}
    for memory_format in MEMORY_FORMATS:
        prepare(module, precision=condition.precision, memory_format=memory_format)
        inputs = _inputs(network, condition, method, memory_format).draw(network.buffers(condition.batch_size))
        call = make_call(backend, module, inputs, threads=method.threads)
        # The weights must be in the format while it is timed, so the formats are timed one after the other.
        call()
        shortest[memory_format] = min(clock.time_block(call, 1) for _ in range(5))
    return min(shortest, key=lambda memory_format: shortest[memory_format]), shortest
