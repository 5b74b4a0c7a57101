"""What a training will cost: the parts of networks and a short probe of this machine in, seconds per step out.

A step is predicted as the sum of its parts (each block and each layer between blocks, forward and backward, as often as
it occurs) and of the update of its parameters, times what one model's whole step takes over its own sum. The distinct
parts of a network run in turn, as in a step: the same part run again and again would find its weights in the caches.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from repvgg_companion.complexity.layers import Layer, trace_layers
from repvgg_companion.machine.torch_device import DTYPES, autocast, best_precision, synchronize
from repvgg_companion.models.blocks import SqueezeExcitation
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import require_model
from repvgg_companion.models.repvgg import RepVGG
from repvgg_companion.models.resnet import ResNet
from repvgg_companion.training.job.processes import World
from repvgg_companion.training.kernels import choose_cpu_kernels
from repvgg_companion.training.optimizer import Sgd, parameter_groups
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner

REPEATS = 5
OPERATIONS_PER_BYTE = {"gpu": 100, "cpu": 20}
"""What convolutions in 16 bits reach, over what memory reaches: 100 to 130 on an A100 or H100, 10 to 20 on CPUs."""
ANCHOR_WIDTHS = (0.5, 1.0, 1.5)
RATE = 1e-3


@dataclass(frozen=True)
class Network:
    """One network as it is trained: which, how wide, on what size of images."""

    model: str
    width: float
    num_classes: int
    input_px: int


@cache
def _built(network: Network) -> nn.Module:
    """The train form without memory for its weights (on the meta device)."""
    with torch.device("meta"):
        return build_model(network.model, num_classes=network.num_classes, width=network.width)


@cache
def parameter_count(network: Network) -> int:
    """The number of parameters of the train form."""
    return sum(parameter.numel() for parameter in _built(network).parameters())


@cache
def nominal_cost(network: Network, *, on_cpu: bool = False) -> float:
    """What an image's forward and backward pass costs, in floating-point operations of a machine that was not measured.

    Each layer counts its arithmetic (two operations per multiply-add, three passes) and the bytes that convolution,
    batch norm and ReLU move (3 times the input, 16 times the output, 2 bytes each), a byte as so many operations as
    machines do in the time of one. A squeeze-and-excitation moves the map that it scales.
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
    """A block, or a layer between blocks (on the meta device), the shape of one input without its batch, and how often
    a step runs one like it."""

    module: nn.Module
    input_shape: tuple[int, ...]
    count: int


@cache
def parts_of(network: Network) -> tuple[Part, ...]:
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


def _outermost(network: nn.Module):
    """The modules below what merely runs one after another: blocks, and layers that stand in no block."""
    for child in network.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | RepVGG | ResNet):
            yield from _outermost(child)
        else:
            yield child


class Probe:
    """Times of networks' parts and of one model's step on this machine, each measured once, and again by `refine`.

    `batch_size` is the micro-batch that one forward pass takes, and `precision` what autocast computes in. `clock`
    tells seconds; on a CPU it may be `time.process_time`, which other work on the machine disturbs less.
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
        self.memory_format = "channels_last" if channels_last else "contiguous"
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._parts: dict[Network, dict[Part, float]] = {}
        self._updates: dict[Network, float] = {}
        self._steps: dict[Network, float] = {}
        self._anchors: list[Network] = []

    def anchor(self, network: Network) -> float:
        """Time whole steps of one model, by which all others are scaled; returns its seconds at its width."""
        self._anchors = [replace(network, width=network.width * factor) for factor in ANCHOR_WIDTHS]
        for item in self._anchors:
            self.real_step_s(item)
        return self._steps[self._anchors[ANCHOR_WIDTHS.index(1.0)]]

    def refine(self) -> None:
        """Time everything that was timed once more and keep the least: other processes may have disturbed the first."""
        for network in list(self._parts):
            self._time_parts(network)
        for network in list(self._steps):
            self.real_step_s(network)

    def step_s(self, network: Network, micro_batches: float = 1) -> float:
        """Predicted seconds of one optimizer step with so many micro-batches: forward, backward, update."""
        scales = [self._steps[item] / self._sum_s(item, 1) for item in self._anchors]
        return sum(scales) / len(scales) * self._sum_s(network, micro_batches)

    def _sum_s(self, network: Network, micro_batches: float) -> float:
        if network not in self._parts:
            self._time_parts(network)
        passes = sum(part.count * seconds for part, seconds in self._parts[network].items())
        return micro_batches * passes + self._updates[network]

    def real_step_s(self, network: Network) -> float:
        """Measured seconds of the same step, on random images: the least of all calls."""
        built = build_model(network.model, num_classes=network.num_classes, width=network.width)
        built = choose_cpu_kernels(built, self.device)
        recipe, classes = self._recipe(network), network.num_classes
        decided = {"precision": self.precision, "memory_format": self.memory_format}
        learner = Learner(built, recipe, World(self.device), num_classes=classes, seed=0, decided=decided)
        images = torch.randint(0, 256, (self.batch_size, 3, network.input_px, network.input_px), dtype=torch.uint8)
        labels = torch.arange(self.batch_size) % network.num_classes
        if require_model(network.model).family == "PSPNet":
            labels = labels[:, None, None].expand(-1, network.input_px, network.input_px)
        loss = torch.zeros((), device=self.device)
        hits = torch.zeros((), dtype=torch.float64, device=self.device)
        least = self._steps.get(network, float("inf"))
        for number in range(REPEATS + 2):  # the first two choose kernels
            seconds = self._timed(lambda: learner.step(images, labels, step=0, rate=RATE, loss=loss, hits=hits))
            least = least if number < 2 else min(seconds, least)
        self._steps[network] = least
        return least

    def _recipe(self, network: Network) -> Recipe:
        size = self.batch_size
        return Recipe(epochs=1, global_batch_size=size, batch_norm_batch_size=size, input_px=network.input_px)

    def _time_parts(self, network: Network) -> None:
        """Run the distinct parts forward in turn, backward in reverse, and update them; keep the least of each."""
        parts = parts_of(network)
        modules = [self._real(part.module) for part in parts]
        inputs = [self._inputs(part.input_shape) for part in parts]
        together = nn.ModuleList(modules)
        own = sum(parameter.numel() for parameter in together.parameters())
        optimizer = Sgd(parameter_groups(together, self._recipe(network)), self._recipe(network))
        least = self._parts.get(network) or dict.fromkeys(parts, float("inf"))
        update = self._updates.get(network, float("inf"))
        for number in range(REPEATS + 2):
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
            if number >= 2:  # the first two choose kernels
                least = {part: min(least[part], new) for part, new in zip(parts, seconds, strict=True)}
                update = min(update, update_s * parameter_count(network) / own)
        self._parts[network], self._updates[network] = least, update

    def _real(self, module: nn.Module) -> nn.Module:
        """A copy with weights, in the layout and with the kernels that a training gives it."""
        module = copy.deepcopy(module).to_empty(device=self.device)
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.fill_(1)
        for child in module.modules():
            if hasattr(child, "reset_parameters"):
                child.reset_parameters()
        if getattr(module, "inplace", False):  # a ReLU between blocks: its input here is no other layer's output
            module.inplace = False
        return choose_cpu_kernels(module, self.device).to(memory_format=self._layout)

    def _inputs(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A batch as the part before hands it on: in 16 bits, if autocast has them, and with a gradient; or images."""
        batch = torch.rand(self.batch_size, *shape, device=self.device)
        if len(shape) == 3:
            batch = batch.contiguous(memory_format=self._layout)
        return batch if shape[0] == 3 else batch.to(DTYPES[self.precision]).requires_grad_()

    def _forward(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with autocast(self.precision, self.device):
            return module(images)

    def _timed(self, work: Callable[[], None]) -> float:
        synchronize(self.device)
        start = self._clock()
        work()
        synchronize(self.device)
        return self._clock() - start
