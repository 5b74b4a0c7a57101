"""Predict the seconds of a training step from a short probe of this machine.

A step is predicted as the sum of its parts (each block and each layer between blocks, forward and backward, as often as
it occurs) and of the update of its parameters, times the ratio of one model's whole step to its own sum. The distinct
parts of a network run in turn, as in a step: the same part run again and again would find its weights in the caches.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from repvgg_companion.complexity.layers import Layer, trace_layers
from repvgg_companion.machine.torch_device import DTYPES, autocast, best_precision
from repvgg_companion.models.blocks import SqueezeExcitation
from repvgg_companion.models.build import build_model
from repvgg_companion.models.repvgg import RepVGG
from repvgg_companion.models.resnet import ResNet
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.optimizer import Sgd, parameter_groups
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner
from repvgg_companion.training.step_timing import RATE, REPEATS, WARM_UP, step_on_random_images, time_in_turn, timed

OPERATIONS_PER_BYTE = {"gpu": 100, "cpu": 20}
"""Operations of 16-bit convolutions in the time of a byte moved: 100 to 130 on an A100 or H100, 10 to 20 on CPUs."""
ANCHOR_WIDTHS = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class NetworkShape:
    """What decides the cost of a network's step: model, width, number of classes, size of the images."""

    model: str
    width: float
    num_classes: int
    input_px: int


@cache
def _built(network: NetworkShape) -> nn.Module:
    """The train form without memory for its weights (on the meta device)."""
    with torch.device("meta"):
        return build_model(network.model, num_classes=network.num_classes, width=network.width)


@cache
def parameter_count(network: NetworkShape) -> int:
    """The number of parameters of the train form."""
    return sum(parameter.numel() for parameter in _built(network).parameters())


@cache
def nominal_cost(network: NetworkShape, *, on_cpu: bool = False) -> float:
    """The cost of an image's forward and backward pass in floating-point operations, without a measurement.

    Each layer counts its arithmetic (two operations per multiply-add, three passes) and the bytes that convolution,
    batch norm and ReLU move (3 times the input, 16 times the output, 2 bytes each); `OPERATIONS_PER_BYTE` converts the
    bytes. A squeeze-and-excitation moves the map that it scales.
    """
    layers = trace_layers(_built(network), network.input_px)
    scaled = [name for name, module in _built(network).named_modules() if isinstance(module, SqueezeExcitation)]
    moved = sum(_bytes(layer, stride=layer.stride, inputs=layer.in_channels) for layer in layers)
    for name in scaled:
        block = name.rpartition(".")[0] + "."
        before = next(layer for layer in layers if layer.name.startswith(block))
        moved += _bytes(before, stride=1, inputs=before.out_channels)
    return 6 * sum(layer.flops for layer in layers) + OPERATIONS_PER_BYTE["cpu" if on_cpu else "gpu"] * moved


def _bytes(layer: Layer, *, stride: int, inputs: int) -> int:
    return 2 * (3 * inputs * (layer.output_px * stride) ** 2 + 16 * layer.out_channels * layer.output_px**2)


@dataclass(frozen=True)
class Part:
    """A block or a layer between blocks (on the meta device), its input's shape without the batch, and its count."""

    module: nn.Module
    input_shape: tuple[int, ...]
    count: int


@cache
def parts_of(network: NetworkShape) -> tuple[Part, ...]:
    """The distinct parts of the train form, in the order in which a step first runs them."""
    built = _built(network)
    calls: list[tuple[nn.Module, tuple[int, ...]]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, _: calls.append((module, tuple(inputs[0].shape[1:]))))
        for module in dict.fromkeys(_outermost(built))
    ]
    try:
        with torch.no_grad(), torch.device("meta"):
            built(torch.empty(2, 3, network.input_px, network.input_px))
    finally:
        for handle in handles:
            handle.remove()
    found: dict[tuple[str, tuple[int, ...]], Part] = {}
    for module, shape in calls:
        key = (repr(module), shape)
        found[key] = replace(found[key], count=found[key].count + 1) if key in found else Part(module, shape, 1)
    return tuple(found.values())


def _outermost(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network, and its layers outside blocks."""
    for child in network.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | RepVGG | ResNet):
            yield from _outermost(child)
        else:
            yield child


class Probe:
    """Times of networks' parts and of one model's step on this machine, each measured once, and again by `refine`.

    `batch_size` is the micro-batch of one forward pass, `precision` the one of autocast. On a CPU `clock` may be
    `time.process_time`, which other work on the machine disturbs less.
    """

    def __init__(
        self,
        device: torch.device,
        batch_size: int,
        precision: str,
        *,
        channels_last: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device, self.batch_size, self._clock = device, batch_size, clock
        self.precision = best_precision(device) if precision == "auto" else precision
        self._channels_last = channels_last
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._parts: dict[NetworkShape, dict[Part, float]] = {}
        self._updates: dict[NetworkShape, float] = {}
        self._steps: dict[NetworkShape, float] = {}
        self._anchors: list[NetworkShape] = []

    def anchor(self, network: NetworkShape) -> float:
        """Time whole steps of one model, by which all others are scaled; returns its seconds at its width."""
        self._anchors = [replace(network, width=network.width * factor) for factor in ANCHOR_WIDTHS]
        for item in self._anchors:
            self.real_step_s(item)
        return self._steps[self._anchors[ANCHOR_WIDTHS.index(1.0)]]

    def refine(self) -> None:
        """Time everything again and keep the least: other processes may have disturbed the first time."""
        for network in list(self._parts):
            self._time_parts(network)
        for network in list(self._steps):
            self.real_step_s(network)

    def step_s(self, network: NetworkShape, micro_batches: float = 1) -> float:
        """Predicted seconds of one optimizer step with this many micro-batches: forward, backward, update."""
        scales = [self._steps[item] / self._sum_s(item, 1) for item in self._anchors]
        return sum(scales) / len(scales) * self._sum_s(network, micro_batches)

    def _sum_s(self, network: NetworkShape, micro_batches: float) -> float:
        if network not in self._parts:
            self._time_parts(network)
        passes = sum(part.count * seconds for part, seconds in self._parts[network].items())
        return micro_batches * passes + self._updates[network]

    def real_step_s(self, network: NetworkShape) -> float:
        """Measured seconds of the same step on random images: the least of all calls."""
        built = build_model(network.model, num_classes=network.num_classes, width=network.width)
        learner = Learner(
            avoid_faulty_and_slow_cpu_kernels(built, self.device),
            self._recipe(network),
            ProcessGroup(self.device),
            num_classes=network.num_classes,
            seed=0,
        )
        step = step_on_random_images(learner, network.num_classes)
        (seconds,) = time_in_turn({network.model: step}, self.device, self._clock).values()
        self._steps[network] = min(*seconds, self._steps.get(network, float("inf")))
        return self._steps[network]

    def _recipe(self, network: NetworkShape) -> Recipe:
        return Recipe.from_mapping(
            {
                "epochs": 1,
                "global_batch_size": self.batch_size,
                "batch_norm_batch_size": self.batch_size,
                "input_px": network.input_px,
                "precision": self.precision,
                "memory_format": "channels_last" if self._channels_last else "contiguous",
            }
        )

    def _time_parts(self, network: NetworkShape) -> None:
        """Run the distinct parts forward in turn, backward in reverse, and update them; keep the least of each."""
        parts = parts_of(network)
        modules = [self._real(part.module) for part in parts]
        inputs = [self._inputs(part.input_shape) for part in parts]
        together = nn.ModuleList(modules)
        own = sum(parameter.numel() for parameter in together.parameters())
        optimizer = Sgd(parameter_groups(together, self._recipe(network)), self._recipe(network))
        least = self._parts.get(network) or dict.fromkeys(parts, float("inf"))
        update = self._updates.get(network, float("inf"))
        for number in range(WARM_UP + REPEATS):
            optimizer.forget_gradients()
            outputs, seconds = [], []
            for module, images in zip(modules, inputs, strict=True):
                images.grad = None
                seconds.append(self._timed(lambda: outputs.append(self._forward(module, images))))  # noqa: B023
            for place in reversed(range(len(parts))):
                output = outputs.pop()
                if output.requires_grad:
                    seconds[place] += self._timed(lambda: output.backward(output))  # noqa: B023
            update_s = self._timed(lambda: optimizer.step(RATE))
            if number >= WARM_UP:
                least = {part: min(least[part], new) for part, new in zip(parts, seconds, strict=True)}
                update = min(update, update_s * parameter_count(network) / own)
        self._parts[network], self._updates[network] = least, update

    def _real(self, module: nn.Module) -> nn.Module:
        """A copy with weights, in the memory format and with the kernels of a training."""
        module = copy.deepcopy(module).to_empty(device=self.device)
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.fill_(1)
        for child in module.modules():
            reset = getattr(child, "reset_parameters", None)
            if reset is not None:
                reset()
        if getattr(module, "inplace", False):  # a ReLU between blocks, whose input no layer made here
            module.inplace = False  # type: ignore[assignment]
        module = avoid_faulty_and_slow_cpu_kernels(module, self.device)
        return module.to(memory_format=self._layout)  # type: ignore[call-overload]

    def _inputs(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A batch as the previous part gives it: in autocast's precision, with a gradient; or images."""
        batch = torch.rand(self.batch_size, *shape, device=self.device)
        if len(shape) == 3:
            batch = batch.contiguous(memory_format=self._layout)
        return batch if shape[0] == 3 else batch.to(DTYPES[self.precision]).requires_grad_()

    def _forward(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with autocast(self.precision, self.device):
            return module(images)

    def _timed(self, work: Callable[[], object]) -> float:
        return timed(work, self.device, self._clock)
