"""The `measure-memory` verb: Figure 3 and whole models, as memory between and during operators.

Each network is run operator by operator, every value freed after its last use, as an engine does. Before an operator
the live tensors are counted (the figure's count, without weights). While it runs, the allocations of the device are
recorded: the operator's output and scratch space.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from repvgg_companion.errors import Interrupted
from repvgg_companion.identity import split_model_name
from repvgg_companion.progress import Progress
from repvgg_companion.runs import new_run_id, write_run
from repvgg_companion.settings import request_of
from repvgg_companion.speed.alarm import stop_if_due, undisturbed
from repvgg_companion.speed.effort import MeasureRequest, add_measure_arguments
from repvgg_companion.speed.speed_settings import MemorySettings

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from repvgg_companion.speed.effort import Effort
    from repvgg_companion.speed.finished_groups import FinishedWork
    from repvgg_companion.speed.networks import ModelForm

WHOLE = "whole-network"
FIGURE_3 = (
    "figure3-1-block-input",
    "figure3-2-before-inner-relu",
    "figure3-3-after-inner-relu",
    "figure3-4-block-output",
)
"""The four points of Figure 3, at a block (or two plain layers) that keeps its size."""


@dataclass(frozen=True, kw_only=True)
class MeasureMemoryRequest(MeasureRequest):
    """The request of the verb."""

    settings: MemorySettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `measure-memory` verb."""
    parser.add_argument("--plan", required=True, help="memory settings as JSON, a JSON file, or FILE#KEY")
    add_measure_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measure both forms of every model and write the rows."""
    settings = MemorySettings.read(arguments.plan)
    with request_of(MeasureMemoryRequest, arguments, settings=settings).with_folder() as request:
        measure_models(request)


def measure_models(request: MeasureMemoryRequest) -> None:
    """Measure both forms of every model and write the rows."""
    import torch

    from repvgg_companion.machine.cpu import usable_cores
    from repvgg_companion.machine.device import choose_device, device_label
    from repvgg_companion.speed.finished_groups import FinishedWork

    settings = replace(request.settings, device=choose_device(request.settings.device))
    torch.set_num_threads(usable_cores())
    device, run_id = device_label(settings.device), new_run_id("measure-memory")
    kept = FinishedWork(request.folder, device)
    if not request.finish:
        measure_networks(settings, kept, request.effort())
    rows, reasons = memory_rows(settings, kept)
    request.require(rows)
    shared = {"experiment": request.experiment, "run_id": run_id, "device": device}
    facts = {"device": device, "settings": settings.as_dict(), "not_measured": reasons}
    write_run(request.runs, run_id, verb="measure-memory", experiment=request.experiment, **facts)
    request.write("memory", [shared | row for row in rows])
    print(f"{len(rows)} memory rows on {device}")


def measure_networks(settings: MemorySettings, kept: "FinishedWork", effort: "Effort") -> None:
    """Measure and keep what is missing of every network on `settings.device`; raises Interrupted after the deadline.

    A network that does not fit into the memory gets an empty row.
    """
    networks = _networks(settings)
    with Progress("measure-memory", total=len(networks), unit="networks") as progress:
        for number, network in enumerate(networks):
            progress.note(network.name)
            facts = _facts(network, settings)
            if kept.found("memory", facts) is None:
                stop_if_due()
                if effort.seconds_left <= 0:
                    raise Interrupted(
                        f"{number} of {len(networks)} networks are measured and kept in {kept.folder}; run the same "
                        "command to go on"
                    )
                kept.store("memory", facts, _rows_or_reason(network, settings))
            progress.advance()


def memory_rows(settings: MemorySettings, kept: "FinishedWork") -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of every network that is kept, and why some of these were not measured."""
    rows, reasons = [], {}
    for network in _networks(settings):
        found = kept.found("memory", _facts(network, settings))
        if found is not None:
            rows += [_columns(network, settings) | row for row in found["rows"]]
            if found["reason"]:
                reasons[network.name] = found["reason"]
    return rows, reasons


def _networks(settings: MemorySettings) -> "list[ModelForm]":
    from repvgg_companion.speed.networks import ModelForm, forms_of

    return [
        ModelForm(model, form, settings.width, settings.num_classes)
        for model in settings.models
        for form in forms_of(model, ("train", "deploy"))
    ]


def _facts(network: "ModelForm", settings: MemorySettings) -> dict[str, Any]:
    """What the memory of a network depends on."""
    conditions = {name: getattr(settings, name) for name in ("batch_size", "input_px", "device")}
    return {"network": asdict(network), **conditions}


def _rows_or_reason(network: "ModelForm", settings: MemorySettings) -> dict[str, Any]:
    from repvgg_companion.machine.torch_device import free_memory, is_out_of_memory, set_precision

    set_precision("fp32", settings.device)
    try:
        return {"rows": measure_network(network, settings, settings.device), "reason": ""}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory(settings.device)  # here, where the exception and with it the frames that held the network are gone
    return {"rows": [{"layer": WHOLE}], "reason": f"out of memory at batch {settings.batch_size}"}


def _columns(network: "ModelForm", settings: MemorySettings) -> dict[str, Any]:
    """The columns that all rows of a network share."""
    base_model, variation = split_model_name(network.model)
    return {
        "model": network.model,
        "base_model": base_model,
        "variation": variation,
        "width": network.width,
        "num_classes": network.classes,
        "form": network.form,
        "batch_size": settings.batch_size,
        "input_px": network.input_px(settings.input_px),
    }


def measure_network(network: "ModelForm", settings: MemorySettings, kind: str) -> list[dict[str, Any]]:
    """Rows of one network: every operator, the four points of Figure 3 if it has such a block, and the whole."""
    import torch

    from repvgg_companion.speed.networks import Inputs
    from repvgg_companion.speed.peak_memory import held_mib, peak_call_mib

    shape = network.input_shape(network.input_px(settings.input_px))
    with torch.inference_mode():
        module = network.build(device=kind)
        inputs = Inputs(settings.batch_size, shape, "fp32", "contiguous", kind).draw(1)
        module(inputs[0])
        peak = held_mib(module, inputs) + peak_call_mib(lambda: module(inputs[0]), kind)
        points = trace(module, inputs[0], kind)
    rows: list[dict[str, Any]] = [
        {"layer": point.layer, "live_feature_map_mib": point.live_mib, "peak_mib": point.peak_mib} for point in points
    ]
    rows += [
        {"layer": name, "live_feature_map_mib": mib, "peak_mib": None} for name, mib in figure_3_points(points).items()
    ]
    live = max((point.live_mib for point in points), default=None)
    return [*rows, {"layer": WHOLE, "live_feature_map_mib": live, "peak_mib": peak}]


@dataclass(frozen=True)
class OperatorMemory:
    """The moment before one operator: live tensors in MiB, and the most that was alive until the next operator.

    `keeps_size` is true for a convolution of stride 1 with as many output as input channels.
    """

    layer: str
    operator: str
    live_mib: float
    peak_mib: float
    keeps_size: bool = False


def trace(module: "nn.Module", images: "torch.Tensor", kind: str) -> list[OperatorMemory]:
    """Every operator of a network in order, with the memory before and during it; empty if it cannot be traced."""
    import torch
    from torch import fx

    from repvgg_companion.speed.peak_memory import MIB, Recorder

    try:
        graph = fx.symbolic_trace(module)
    except (fx.proxy.TraceError, TypeError):
        return []
    lived: list[tuple[str, str, float]] = []
    recorder = Recorder(kind)

    class Meter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n.op in ("placeholder", "output", "get_attr"):
                return super().run_node(n)
            storages = {}
            for value in self.env.values():
                if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                    storage = value.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
            lived.append((*_names(n, graph), sum(storages.values()) / MIB))
            with recorder.step():
                return super().run_node(n)

    with undisturbed(), recorder:
        Meter(graph).run(images)
    modules = dict(module.named_modules())
    return [
        OperatorMemory(layer, operator, live, live + peak, _keeps_size(modules.get(layer)))
        for (layer, operator, live), peak in zip(lived, recorder.peaks_mib, strict=True)
    ]


def _keeps_size(module: "nn.Module | None") -> bool:
    channels_in, channels_out, stride = (
        getattr(module, name, None) for name in ("in_channels", "out_channels", "stride")
    )
    return channels_in is not None and channels_in == channels_out and stride == (1, 1)


def _names(node: "fx.Node", graph: "fx.GraphModule") -> tuple[str, str]:
    """The layer's name (the module's path for a module) and the kind of operator."""
    if node.op == "call_module":
        path = str(node.target)
        return path, type(graph.get_submodule(path)).__name__
    return node.name, node.target if isinstance(node.target, str) else node.target.__name__


def _operator_kind(point: OperatorMemory) -> str:
    if point.operator == "Conv2d":
        return "conv"
    return next((kind for kind in ("relu", "add") if kind in point.operator.lower()), point.operator)


def figure_3_points(points: list[OperatorMemory]) -> dict[str, float]:
    """Live memory at the four points of Figure 3, in the first place where a block keeps its size.

    In a ResNet of basic blocks: before its two convolutions and the ReLU between them, and after the addition. In a
    plain network: around two layers in a row. Empty for a network with neither (bottlenecks, branches).
    """
    steps = [point for point in points if point.operator != "Identity"]
    kinds = [_operator_kind(point) for point in steps]
    pattern = ["conv", "relu", "conv", "add", "relu"] if "add" in kinds else ["conv", "relu", "conv", "relu"]
    for start in range(len(steps) - len(pattern)):
        found = steps[start : start + len(pattern)]
        if kinds[start : start + len(pattern)] == pattern and found[0].keeps_size and found[2].keeps_size:
            chosen = [*(point.live_mib for point in found[:3]), steps[start + len(pattern)].live_mib]
            return dict(zip(FIGURE_3, chosen, strict=True))
    return {}
