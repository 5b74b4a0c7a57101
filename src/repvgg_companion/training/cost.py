"""What a training will cost: the layers of networks and a short probe of this machine in, seconds per step out.

A step is predicted as x times the sum of its layers plus y times the number of its parameters. Each distinct layer
shape (convolution, batch norm, ReLU; forward and backward) is timed once by itself. x and y come from whole steps of
one model at three widths: x is what happens between the layers, y the update and the weights that no cache holds.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from repvgg_companion.complexity.layers import Layer, trace_layers
from repvgg_companion.models.blocks import SqueezeExcitation
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import require_model
from repvgg_companion.training.decide import autocast, best_precision
from repvgg_companion.training.kernels import choose_cpu_kernels
from repvgg_companion.training.processes import World
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner

REPEATS = 5
OPERATIONS_PER_BYTE = {"gpu": 100, "cpu": 20}
"""What convolutions in 16 bits reach, over what memory reaches: 100 to 130 on an A100 or H100, 10 to 20 on CPUs."""
ANCHOR_WIDTHS = (0.5, 1.0, 1.5)
Shape = tuple[int, int, int, int, int, int]
"""In and out channels, kernel side, stride, groups, and side of the output map.

Instead of a kernel side, LINEAR is a fully connected layer and EXCITATION a whole squeeze-and-excitation.
"""
LINEAR, EXCITATION = 0, -1


@dataclass(frozen=True)
class Network:
    """One network as it is trained: which, how wide, on what size of images."""

    model: str
    width: float
    num_classes: int
    input_px: int


@cache
def shapes_of(network: Network) -> tuple[dict[Shape, int], int]:
    """How often each distinct layer shape occurs in the train form, and the number of parameters."""
    with torch.device("meta"):
        built = build_model(network.model, num_classes=network.num_classes, width=network.width)
    layers = trace_layers(built, network.input_px)
    inside = [name for name, module in built.named_modules() if isinstance(module, SqueezeExcitation)]
    shapes = [_shape(layer) for layer in layers if layer.name.rpartition(".")[0] not in inside]
    for name in inside:
        before = next(layer for layer in layers if layer.name.startswith(name.rpartition(".")[0] + "."))
        shapes.append((before.out_channels, before.out_channels, EXCITATION, 1, 1, before.output_px))
    return dict(Counter(shapes)), sum(parameter.numel() for parameter in built.parameters())


def _shape(layer: Layer) -> Shape:
    kernel = layer.kernel[0] if layer.kind == "conv" else LINEAR
    return (layer.in_channels, layer.out_channels, kernel, layer.stride, layer.groups, layer.output_px)


def nominal_cost(network: Network, *, on_cpu: bool = False) -> float:
    """What an image's forward and backward pass costs, in floating-point operations of a machine that was not measured.

    Each layer counts its arithmetic (two operations per multiply-add, three passes) and the bytes that convolution,
    batch norm and ReLU move (3 times the input, 16 times the output, 2 bytes each), a byte as so many operations as
    machines do in the time of one.
    """
    total = 0.0
    for (inputs, outputs, kernel, stride, groups, side), count in shapes_of(network)[0].items():
        per_output = 0 if kernel == EXCITATION else inputs // groups * max(kernel, 1) ** 2
        operations = 6 * per_output * outputs * side**2
        moved = 2 * (3 * inputs * (side * stride) ** 2 + 16 * outputs * side**2)
        total += count * (operations + OPERATIONS_PER_BYTE["cpu" if on_cpu else "gpu"] * moved)
    return total


class Probe:
    """Times of layers and of one model's step on this machine, each measured once, and again by `refine`.

    `batch_size` is the micro-batch that one forward pass takes, and `precision` what autocast computes in.
    """

    def __init__(self, device: torch.device, batch_size: int, precision: str, *, channels_last: bool = True) -> None:
        self.device, self.batch_size, self.channels_last = device, batch_size, channels_last
        self.precision = best_precision(device) if precision == "auto" else precision
        self._layers: dict[Shape, float] = {}
        self._steps: dict[Network, float] = {}
        self._anchors: list[Network] = []
        self._empty_s: float | None = None
        self.per_layer_s, self.per_parameter = 1.0, 0.0

    def anchor(self, network: Network) -> float:
        """Time whole steps of one model, from which x and y for all others follow; returns its seconds at its width."""
        self._anchors = [replace(network, width=network.width * factor) for factor in ANCHOR_WIDTHS]
        for item in self._anchors:
            self.real_step_s(item)
            self._layers_s(item)
        self._fit()
        return self._steps[self._anchors[ANCHOR_WIDTHS.index(1.0)]]

    def refine(self) -> None:
        """Time everything that was timed once more and keep the least: other processes may have disturbed the first."""
        for shape in self._layers:
            self._layers[shape] = min(self._layers[shape], self._time_layer(shape))
        for item in list(self._steps):
            self.real_step_s(item)
        self._fit()

    def _fit(self) -> None:
        from scipy.optimize import nnls

        seconds = [self._steps[item] for item in self._anchors]
        rows = [[self._layers_s(item), shapes_of(item)[1]] for item in self._anchors]
        relative = [[value / real for value in row] for row, real in zip(rows, seconds, strict=True)]
        scale = max(row[1] for row in relative)  # the two columns differ by ten powers of ten
        found, _ = nnls([[row[0], row[1] / scale] for row in relative], [1.0] * len(relative))
        self.per_layer_s, self.per_parameter = float(found[0]), float(found[1] / scale)

    def step_s(self, network: Network, micro_batches: float = 1) -> float:
        """Predicted seconds of one optimizer step with so many micro-batches: forward, backward, update."""
        return micro_batches * self.per_layer_s * self._layers_s(network) + self.per_parameter * shapes_of(network)[1]

    def _layers_s(self, network: Network) -> float:
        return sum(count * self._layer_s(shape) for shape, count in shapes_of(network)[0].items())

    def real_step_s(self, network: Network) -> float:
        """Measured seconds of the same step, on random images: the least of all calls."""
        recipe = Recipe(
            epochs=1,
            global_batch_size=self.batch_size,
            batch_norm_batch_size=self.batch_size,
            input_px=network.input_px,
        )
        built = build_model(network.model, num_classes=network.num_classes, width=network.width)
        built = choose_cpu_kernels(built, self.device)
        decided = {
            "precision": self.precision,
            "memory_format": "channels_last" if self.channels_last else "contiguous",
        }
        learner = Learner(built, recipe, World(self.device), num_classes=network.num_classes, seed=0, decided=decided)
        images = torch.randint(0, 256, (self.batch_size, 3, network.input_px, network.input_px), dtype=torch.uint8)
        labels = torch.arange(self.batch_size) % network.num_classes
        if require_model(network.model).family == "PSPNet":
            labels = labels[:, None, None].expand(-1, network.input_px, network.input_px)
        loss = torch.zeros((), device=self.device)
        hits = torch.zeros((), dtype=torch.float64, device=self.device)

        def step() -> None:
            learner.step(images, labels, step=0, rate=1e-3, loss=loss, hits=hits)

        self._steps[network] = min(self._timed(step), self._steps.get(network, float("inf")))
        return self._steps[network]

    def _layer_s(self, shape: Shape) -> float:
        if shape not in self._layers:
            self._layers[shape] = self._time_layer(shape)
        return self._layers[shape]

    def _time_layer(self, shape: Shape) -> float:
        in_channels, out_channels, kernel, stride, groups, output_px = shape
        if kernel == LINEAR:
            block = nn.Linear(in_channels, out_channels, device=self.device)
            return self._layer_pass_s(block, torch.rand(self.batch_size, in_channels, device=self.device))
        if kernel == EXCITATION:
            block = SqueezeExcitation(out_channels).to(self.device)
        else:
            conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
            block = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU()).to(self.device)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        block = choose_cpu_kernels(block, self.device).to(memory_format=layout)
        side = output_px * stride
        images = torch.rand(self.batch_size, in_channels, side, side, device=self.device)
        return self._layer_pass_s(block, images.contiguous(memory_format=layout))

    def _layer_pass_s(self, block: nn.Module, images: torch.Tensor) -> float:
        seconds = self._pass_s(block, images)
        if self._empty_s is None:  # what starting a forward and a backward pass costs, once a step and not once a layer
            self._empty_s = self._pass_s(nn.Hardtanh(), torch.rand(1, device=self.device))
        return max(seconds - self._empty_s, 0.0)

    def _pass_s(self, block: nn.Module, images: torch.Tensor) -> float:
        """Seconds of a forward and a backward pass, gradients of input and weights included."""
        images.requires_grad_()

        def pass_through() -> None:
            for parameter in block.parameters():
                parameter.grad = None
            images.grad = None
            with autocast(self.precision, self.device):
                output = block(images)
            output.backward(output)

        return self._timed(pass_through)

    def _timed(self, work: Callable[[], None]) -> float:
        """Seconds of `work` undisturbed: the least of `REPEATS`, after two calls that choose kernels."""
        seconds = []
        for number in range(REPEATS + 2):
            self._synchronize()
            start = time.perf_counter()
            work()
            self._synchronize()
            if number >= 2:
                seconds.append(time.perf_counter() - start)
        gc.collect()
        return min(seconds)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
