"""The verb `count-complexity`: parameters, FLOPs and Wino MULs of the networks, as the paper counts them.

FLOPs are multiply-adds counted once over all convolutions and linear layers (footnote 2); Wino MULs count the
accelerated 3x3 convolutions at 4/9 (section 4.1 and footnote 3).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from repvgg_companion.complexity.layers import WINOGRAD_RATIO, Layer, ShapesOnly, trace_layers
from repvgg_companion.contract import write_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import read_json
from repvgg_companion.identity import FORMS
from repvgg_companion.models.build import build_model
from repvgg_companion.models.load_form import parameter_count
from repvgg_companion.models.names import MODELS, require_model
from repvgg_companion.runs import new_run_id, write_run
from repvgg_companion.settings import request_of


@dataclass(frozen=True)
class Complexity:
    """Parameters (batch-norm statistics left out), multiply-adds and Winograd multiplications for one image."""

    params: int
    flops: int
    wino_muls: float | None


def count(module: nn.Module, input_px: int, family: str = "RepVGG") -> Complexity:
    """Count one image of `input_px` pixels a side through `module` as it is built (train or deploy form).

    Modules that eval mode does not use (PSPNet's auxiliary head in train form) count with their parameters, but not
    with multiply-adds.
    """
    return _counted(parameter_count(module), trace_layers(module, input_px), family)


def _counted(params: int, layers: Sequence[Layer], family: str) -> Complexity:
    flops = sum(layer.flops for layer in layers)
    if family == "EfficientNet":  # the paper prints a dash
        return Complexity(params, flops, None)
    accelerated = sum(layer.flops for layer in layers if _is_accelerated(layer, family))
    return Complexity(params, flops, float(flops - accelerated + WINOGRAD_RATIO * accelerated))


def _is_accelerated(layer: Layer, family: str) -> bool:
    """Whether a layer counts at 4/9. The authors timed each operator to find out which do.

    Counting all convolutions that Winograd's algorithm fits reproduces the printed cells of ResNet, VGG and RepVGG
    (grouped layers included). Those of RegNetX and ResNeXt are between all and none: counting grouped convolutions only
    if their output has at least 28 px gives 3 of the 4 printed cells (our inference; no rule by layer shape gives
    ResNeXt-50's).
    """
    small_and_grouped = layer.groups > 1 and layer.output_px < 28
    return layer.winograd_shape and not (family in ("RegNetX", "ResNeXt") and small_and_grouped)


@cache
def paper_network(name: str, form: str) -> nn.Module:
    """A network of the paper, at its width and number of classes, on the meta device; cached, so not to be changed."""
    with torch.device("meta"), ShapesOnly():
        return build_model(name, num_classes=require_model(name).num_classes, form=form)


@cache
def paper_layers(name: str, form: str, input_px: int) -> tuple[Layer, ...]:
    """The convolution and linear layers of `paper_network` in the order of execution, for square images."""
    return tuple(trace_layers(paper_network(name, form), input_px))


@cache
def count_model(
    name: str, *, form: str = "deploy", input_px: int | None = None, num_classes: int | None = None, width: float = 1.0
) -> Complexity:
    """Count a named model, built on the meta device; by default at the paper's input size and number of classes.

    Raises CompanionError for an unknown name and for the deploy form of a network that has none.
    """
    spec = require_model(name)
    pixels = input_px or spec.input_px
    if width == 1 and num_classes in (None, spec.num_classes):
        return _counted(parameter_count(paper_network(name, form)), paper_layers(name, form, pixels), spec.family)
    with torch.device("meta"):
        module = build_model(name, num_classes=num_classes or spec.num_classes, width=width, form=form)
    return count(module, pixels, spec.family)


def convolution_flops(batch: int, in_channels: int, out_channels: int, output_px: int, kernel: int) -> int:
    """Multiply-adds of one dense convolution over a batch, the FLOPs column of Table 1."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False, device="meta")
    output = conv(torch.empty(1, in_channels, output_px, output_px, device="meta"))
    return batch * output.numel() * conv.weight[0].numel()


@dataclass(frozen=True)
class CountRequest:
    """The request of the verb; classes and input size (pixels a side) are the paper's if None.

    With a `dataset` the classes are those of its images, and the paper's own networks, which are counted without it,
    are left out.
    """

    experiment: str
    models: tuple[str, ...]
    num_classes: int | None
    width: float
    input_px: int | None
    dataset: Path | None
    output: Path
    runs: Path

    def __post_init__(self) -> None:
        if self.dataset is not None and self.num_classes is not None:
            raise CompanionError("--dataset and --num-classes both give the number of classes; give one of them")
        if twice := sorted({name for name in self.models if self.models.count(name) > 1}):
            raise CompanionError(f"--models names {', '.join(twice)} twice; name each model once")
        if self.input_px is not None and self.input_px < 1:
            raise CompanionError(f"--input-px is {self.input_px}; it must be at least 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb `count-complexity`."""
    parser.add_argument("--experiment", required=True, help="name of the experiment, for the rows")
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL")
    parser.add_argument("--num-classes", type=int, help="default: that of the paper (1000; 19 for PSPNet)")
    parser.add_argument(
        "--dataset", type=Path, metavar="FILE.json", help="take the classes of indexed images, from their dataset.json"
    )
    parser.add_argument("--width", type=float, default=1.0, help="width factor (default 1, the paper's networks)")
    parser.add_argument("--input-px", type=int, help="side of the input (default: the paper's for each model)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.csv")
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="where RUN_ID.json is written")


def run(arguments: argparse.Namespace) -> None:
    """Write one row for each form that each model has."""
    request = request_of(CountRequest, arguments)
    specs = [require_model(name) for name in request.models]
    run_id = new_run_id("count-complexity")
    rows = []
    of_images = _classes_of(request.dataset) if request.dataset else None
    for spec in specs:
        num_classes = of_images or request.num_classes or spec.num_classes
        input_px = request.input_px or spec.input_px
        papers = (1.0, spec.num_classes, spec.input_px) if spec.name in MODELS else None
        if of_images and (request.width, num_classes, input_px) == papers:
            continue
        for form in FORMS if spec.convertible else FORMS[:1]:
            counted = count_model(spec.name, form=form, input_px=input_px, num_classes=num_classes, width=request.width)
            rows.append(
                {
                    "experiment": request.experiment,
                    "model": spec.name,
                    "base_model": spec.base_model,
                    "variation": spec.variation,
                    "width": request.width,
                    "num_classes": num_classes,
                    "run_id": run_id,
                    "form": form,
                    "params": counted.params,
                    "flops": counted.flops,
                    "wino_muls": counted.wino_muls,
                    "input_px": input_px,
                }
            )
    write_run(request.runs, run_id, models=list(request.models), width=request.width)
    write_rows(request.output, "complexity", rows)


def _classes_of(dataset: Path) -> int:
    """The number of classes in a `dataset.json`; raises CompanionError naming a file that holds none."""
    facts = read_json(dataset)
    if not isinstance(facts, dict) or not isinstance(facts.get("num_classes"), int):
        raise CompanionError(f"{dataset} does not say how many classes there are; name the dataset.json of an index")
    return facts["num_classes"]
