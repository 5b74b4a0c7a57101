"""The `measure-memory` verb: Figure 3 and whole models. Models go in; memory between and during operators comes out.

Each network is run operator by operator, every value freed after its last use, as an engine does. Before an operator
the tensors that are alive are counted (the figure's count: weights left out); while it runs, the allocations of the
device (the running operator's output and scratch space come on top, in both kinds of network).
"""

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import split_model_name
from repvgg_companion.progress import Progress
from repvgg_companion.runs import new_run_id, write_run
from repvgg_companion.speed.speed_settings import read_plan

WHOLE = "whole-network"
FIGURE_3 = ("figure3-1-block-input", "figure3-2-before-inner-relu", "figure3-3-after-inner-relu",
            "figure3-4-block-output")  # fmt: skip
"""The four points of Figure 3, at a block (or two plain layers) that keeps its size."""


@dataclass(frozen=True)
class MemorySettings:
    """Which models, at which batch and input size; without `input_px` each model's own."""

    models: tuple[str, ...]
    batch_size: int = 1
    input_px: int | None = None
    width: float = 1.0
    num_classes: int = 1000
    device: str = "auto"

    @classmethod
    def read(cls, plan: str) -> "MemorySettings":
        """Read settings from JSON text or a JSON file; raises CompanionError where a key is unknown or missing."""
        values = read_plan(plan)
        known = cls.__dataclass_fields__
        if unknown := sorted(set(values) - set(known)):
            raise CompanionError(f"memory.{unknown[0]} is no known key; known are {', '.join(known)}")
        if not values.get("models"):
            raise CompanionError("memory.models is missing; name the models to measure")
        settings = cls(**{**values, "models": tuple(values["models"])})
        if not isinstance(settings.batch_size, int) or settings.batch_size < 1:
            raise CompanionError(f"memory.batch_size is {settings.batch_size!r}; it must be at least 1")
        return settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `measure-memory` verb."""
    parser.add_argument("--experiment", required=True, help="name of the experiment, written into every row")
    parser.add_argument("--plan", required=True, help="models and batch_size as JSON, or a JSON file of them")
    parser.add_argument("--output", required=True, help="CSV of the rows")
    parser.add_argument("--runs", required=True, help="folder of the run's JSON file")


def run(arguments: argparse.Namespace) -> None:
    """Measure both forms of every model and write the rows."""
    settings = MemorySettings.read(arguments.plan)
    import torch

    from repvgg_companion.machine.cpu import usable_cores
    from repvgg_companion.machine.device import choose_device, device_label
    from repvgg_companion.speed.networks import ModelForm, forms_of

    kind = choose_device(settings.device)
    torch.set_num_threads(usable_cores())
    device, run_id = device_label(kind), new_run_id("measure-memory")
    rows, reasons = [], {}
    networks = [ModelForm(model, form, settings.width, settings.num_classes)
                for model in settings.models for form in forms_of(model, ("train", "deploy"))]  # fmt: skip
    with Progress("measure-memory", total=len(networks), unit="networks") as progress:
        for network in networks:
            progress.note(network.name)
            base_model, variation = split_model_name(network.model)
            shared = {
                "experiment": arguments.experiment, "model": network.model, "base_model": base_model,
                "variation": variation, "width": network.width, "num_classes": network.classes, "run_id": run_id,
                "form": network.form, "device": device, "batch_size": settings.batch_size,
                "input_px": network.input_px(settings.input_px),
            }  # fmt: skip
            try:
                rows += [shared | row for row in measure_network(network, settings, kind)]
            except torch.OutOfMemoryError:
                reasons[network.name] = f"out of memory at batch {settings.batch_size}"
                rows.append(shared | {"layer": WHOLE})
            progress.advance()
    write_run(arguments.runs, run_id, verb="measure-memory", experiment=arguments.experiment, device=device,
              settings=asdict(settings), not_measured=reasons)  # fmt: skip
    write_rows(arguments.output, "memory", rows)
    print(f"{len(rows)} memory rows of {len(networks)} networks on {device}")


def measure_network(network: Any, settings: MemorySettings, kind: str) -> list[dict[str, Any]]:
    """Rows of one network: every operator, the four points of Figure 3 where it has such a block, and the whole."""
    import torch

    from repvgg_companion.speed import peak_memory
    from repvgg_companion.speed.networks import random_inputs

    px = network.input_px(settings.input_px)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        module = network.build(device=kind)
        inputs = random_inputs(1, settings.batch_size, px, precision="fp32", memory_format="contiguous", device=kind)
        module(inputs[0])
        peak = peak_memory.peak_call_mib(lambda: module(inputs[0]), kind)
        points = trace(module, inputs[0], kind)
        if points:
            rows += [
                {"layer": point.layer, "live_feature_map_mib": point.live_mib, "peak_mib": point.peak_mib}
                for point in points
            ]
            for name, mib in figure_3_points(points).items():
                rows.append({"layer": name, "live_feature_map_mib": mib, "peak_mib": None})
        live = max((point.live_mib for point in points), default=None)
        peak += peak_memory.held_mib(module, inputs)
        rows.append({"layer": WHOLE, "live_feature_map_mib": live, "peak_mib": peak})
    return rows


@dataclass(frozen=True)
class OperatorMemory:
    """The moment before one operator: tensors alive in MiB, and the most that was alive until the next operator.

    `keeps_size` is true for a convolution of stride 1 with as many output as input channels.
    """

    layer: str
    operator: str
    live_mib: float
    peak_mib: float
    keeps_size: bool = False


def trace(module: Any, images: Any, kind: str) -> list[OperatorMemory]:
    """Every operator of a network in order, with the memory before and during it; empty where it cannot be traced."""
    import torch
    from torch import fx

    from repvgg_companion.speed.peak_memory import MIB

    try:
        graph = fx.symbolic_trace(module)
    except (fx.proxy.TraceError, TypeError):
        return []
    lived: list[tuple[str, str, float]] = []
    changes: list[list[int]] = []

    class Meter(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            if node.op in ("placeholder", "output", "get_attr"):
                return super().run_node(node)
            storages = {}
            for value in self.env.values():
                if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                    storage = value.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
            lived.append((*_names(node, graph), sum(storages.values()) / MIB))
            result, change = _recorded(lambda: super(Meter, self).run_node(node), kind)
            changes.append(change)
            return result

    interpreter = Meter(graph)
    if kind == "cpu":
        interpreter = _profiled(interpreter, images, changes)
    else:
        interpreter.run(images)
    points = []
    modules = dict(module.named_modules())
    for (layer, operator, live), change in zip(lived, changes, strict=True):
        alive = highest = 0
        for step in change:
            alive += step
            highest = max(highest, alive)
        points.append(OperatorMemory(layer, operator, live, live + highest / MIB, _keeps_size(modules.get(layer))))
    return points


def _keeps_size(module: Any) -> bool:
    shape = [getattr(module, name, None) for name in ("in_channels", "out_channels", "stride")]
    return shape[0] is not None and shape[0] == shape[1] and shape[2] == (1, 1)


def _profiled(interpreter: Any, images: Any, changes: list[list[int]]) -> Any:
    """Run on a CPU under the profiler and sort its allocations into the operators by their marks."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        interpreter.run(images)
    events = profile.profiler.kineto_results.events()
    starts = sorted(event.start_ns() for event in events if event.name() == _MARK)
    allocations = sorted(((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
                         key=lambda pair: pair[0])  # fmt: skip
    changes.clear()
    for start, end in zip(starts, [*starts[1:], float("inf")], strict=True):
        changes.append([size for moment, size in allocations if start <= moment < end])
    return interpreter


_MARK = "repvgg-companion-operator"


def _recorded(operator: Any, kind: str) -> tuple[Any, list[int]]:
    """Run one operator; on a GPU with its peak from the caching allocator, on a CPU marked for the profiler."""
    import torch

    if kind == "cpu":
        with torch.profiler.record_function(_MARK):
            return operator(), []
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = operator()
    torch.cuda.synchronize()
    return result, [torch.cuda.max_memory_allocated() - before]


def _names(node: Any, graph: Any) -> tuple[str, str]:
    """The layer's name (its module path where it is one) and the kind of operator."""
    if node.op == "call_module":
        return node.target, type(graph.get_submodule(node.target)).__name__
    target = node.target if isinstance(node.target, str) else node.target.__name__
    return node.name, target


def figure_3_points(points: list[OperatorMemory]) -> dict[str, float]:
    """Live memory at the four points of Figure 3, in the first place where a block keeps its size.

    In a ResNet of basic blocks: before its two convolutions and the ReLU between them, and after the addition. In a
    plain network: around two layers in a row. Empty where a network has neither (bottlenecks, branches).
    """
    steps = [point for point in points if point.operator != "Identity"]
    kinds = ["conv" if p.operator == "Conv2d" else "relu" if "relu" in p.operator.lower() else
             "add" if "add" in p.operator.lower() else p.operator for p in steps]  # fmt: skip
    residual, plain = ["conv", "relu", "conv", "add", "relu"], ["conv", "relu", "conv", "relu"]
    for pattern in [residual] if "add" in kinds else [plain]:
        for start in range(len(steps) - len(pattern)):
            found = steps[start : start + len(pattern)]
            if kinds[start : start + len(pattern)] == pattern and found[0].keeps_size and found[2].keeps_size:
                chosen = [*(point.live_mib for point in found[:3]), steps[start + len(pattern)].live_mib]
                return dict(zip(FIGURE_3, chosen, strict=True))
    return {}
