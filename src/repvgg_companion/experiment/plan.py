"""The verb `plan`: what the trainings of an experiment will cost, by a short probe of this machine.

Nothing is trained. Per model and in total: device-hours, wall time on the devices at hand, disk; and which of the
paper's claims a cheaper part of the experiment would already decide.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.data.whole_batch import require_whole_batch
from repvgg_companion.errors import CompanionError, counted
from repvgg_companion.experiment.experiment_file import Experiment
from repvgg_companion.experiment.load import read_experiment
from repvgg_companion.experiment.paths import train_resources, weights_of
from repvgg_companion.experiment.train_images import batch_sizes, images_below
from repvgg_companion.files import read_json
from repvgg_companion.machine.cpu import usable_cores
from repvgg_companion.machine.nvml import visible_gpus
from repvgg_companion.paper.grammar import parse
from repvgg_companion.paper.printed import Facts
from repvgg_companion.training.recipe import Recipe

PAPER = Path(__file__).resolve().parents[3] / "paper"
KNOWN_IMAGES = {"imagenet": (1_281_167, 50_000)}
IMAGES_PER_CORE_S = 780
"""Images that one core decodes and augments per second (uint8 path, 224 px from images of about 500x375)."""
LARGE_PX, SMALL_BATCH = 64, 4
SHORT_PROBE_S = 30
"""A probe that took at most this many seconds is repeated, and the shorter times count."""


@dataclass(frozen=True)
class Cost:
    """What one training costs: seconds of one device, and bytes on the disk when it is finished and while it runs."""

    model: str
    recipe: str
    seed: str
    epochs: int
    images_per_s: float
    device_s: float
    gpus: int
    disk_bytes: int
    running_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `plan` verb."""
    parser.add_argument("experiment", nargs="?", default="config/imagenet.yaml", help="an experiment file")
    parser.add_argument(
        "--images-per-s", metavar="MODEL=N", help="instead of a probe: what one device trains per second"
    )
    parser.add_argument("--anchor", help="the model whose whole step is timed (default: one of the experiment's)")
    parser.add_argument("--devices", type=int, help="devices that work at once (default: the GPUs here, else the CPU)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--train-images", type=int, help="where the dataset is not indexed yet")
    parser.add_argument("--val-images", type=int)


def run(arguments: argparse.Namespace) -> None:
    """Print the plan; raises CompanionError if the number of images is unknown or nothing is trained."""
    experiment = read_experiment(arguments.experiment)
    if not experiment.training:
        raise CompanionError(f"{arguments.experiment} trains nothing, so there is nothing to plan")
    for option, value in (("--devices", arguments.devices), ("--train-images", arguments.train_images)):
        if value is not None and value < 1:
            raise CompanionError(f"{option} is {value}; give 1 or more")
    images = _images(experiment, arguments.train_images, arguments.val_images)
    for name, size in batch_sizes(experiment).items():
        require_whole_batch(size, images[0], name)
    start = time.monotonic()
    if not arguments.images_per_s:
        print("plan: timing each network's blocks here; seconds on a GPU, minutes on a CPU", file=sys.stderr)
    seconds_of, told, probes = _speeds(experiment, arguments)
    costs = predict(experiment, images, seconds_of)
    if probes and time.monotonic() - start < SHORT_PROBE_S:
        for probe in probes.values():
            probe.refine()
        costs = predict(experiment, images, seconds_of)
    gpus = visible_gpus() if arguments.device != "cpu" else []
    threads = max(recipe.threads for recipe in experiment.recipes.values())
    devices = arguments.devices or len(gpus) or cpu_processes(threads or (os.cpu_count() or 1))
    print(f"{experiment.experiment}: {counted(len(costs), 'training')} on {images[0]:,} images; {told}")
    for line in _table(costs, devices, "GPU" if gpus else "device"):
        print(line)
    if cached := _cache_bytes(experiment, images[1]):
        print(f"Decoded validation images, kept for all evaluations (data.cache): {cached / 1e6:.0f} MB more.")
    cores = max(cost.images_per_s for cost in costs) / IMAGES_PER_CORE_S
    if experiment.data.dataset == "imagenet" and cores >= 1:  # one core is always there
        print(f"The JPEGs at the highest of these rates: {cores:.1f} cores that decode, a third of that if packed.")
    for line in cheaper(costs, read_claims()):
        print(line)


def _images(experiment: Experiment, train: int | None, val: int | None) -> tuple[int, int]:
    path = Path(f"results/data/{experiment.data.dataset}/dataset.json")
    if path.exists():
        facts = read_json(path)
        found = facts["train"]["n_images"], facts["val"]["n_images"]
    else:
        found = KNOWN_IMAGES.get(experiment.data.dataset) or _in_folders(experiment)
    train, val = train or found[0], val if val is not None else found[1]
    if train is None:
        raise CompanionError(
            f"{path} does not exist, so the number of images is unknown; give --train-images "
            "(make plan ARGS='--train-images 50000')"
        )
    return train, val


def _in_folders(experiment: Experiment) -> tuple[int | None, int]:
    """The images in the experiment's folders of images; None where it has no such folder to train on."""

    def images(folder: str | None) -> int | None:
        if folder is None or not Path(folder).is_dir():
            return None
        classes = [Path(folder, name) for name in experiment.data.classes] or [Path(folder)]
        return sum(images_below(str(path)) for path in classes if path.is_dir())

    return images(experiment.data.train_folder), images(experiment.data.val_folder) or 0


def _cache_bytes(experiment: Experiment, val_images: int) -> int:
    """Size of the decode-once cache: three bytes per pixel of each validation image, for each protocol."""
    if not experiment.data.caches:
        return 0
    models = [model for group in experiment.training for model in group.models]
    labels = {label for model in models for label in experiment.evaluation.protocols_of(model)}
    return sum(3 * EvaluationProtocol.parse(label).crop_px ** 2 * val_images for label in labels)


def predict(
    experiment: Experiment, images: tuple[int, int], seconds_of: Callable[[str, float, Recipe], tuple[float, float]]
) -> list[Cost]:
    """The cost of every training; `seconds_of(model, width, recipe)` is seconds per image, training and validation."""
    from repvgg_companion.training.cost import NetworkShape, parameter_count

    costs = []
    for weights in weights_of(experiment):
        recipe = experiment.recipes[weights.recipe]
        train_s, val_s = seconds_of(weights.model, weights.width, recipe)
        seen = images[0] // recipe.global_batch_size * recipe.global_batch_size
        classes = experiment.data.num_classes or 1000
        parameters = parameter_count(NetworkShape(weights.model, weights.width, classes, recipe.input_px))
        validations = sum(map(recipe.validates_after, range(1, recipe.epochs + 1)))
        copies = 3 if weights.convertible else 2  # the state's own final weights, train and deploy form
        costs.append(
            Cost(
                weights.model,
                weights.recipe,
                weights.seed,
                recipe.epochs,
                1 / train_s,
                recipe.epochs * seen * train_s + validations * images[1] * val_s,
                max(1, train_resources(experiment, weights.model).gpu),
                copies * 4 * parameters,
                2 * 2 * 4 * parameters,  # two checkpoints of weights and momenta
            )
        )
    return costs


def _speeds(experiment: Experiment, arguments: argparse.Namespace) -> tuple[Callable, str, dict]:
    if arguments.images_per_s:
        return *_given(experiment, arguments.images_per_s, arguments.device == "cpu"), {}
    import torch

    from repvgg_companion.training.cost import NetworkShape, Probe

    on_gpu = arguments.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    classes = experiment.data.num_classes or 1000
    anchor = arguments.anchor or _anchor(experiment)
    probes: dict[tuple, Probe] = {}

    def seconds_of(model: str, width: float, recipe: Recipe) -> tuple[float, float]:
        batch = recipe.batch_norm_batch_size
        if not on_gpu and recipe.input_px > LARGE_PX:
            batch = min(batch, SMALL_BATCH)
        key = (recipe.input_px, batch, recipe.precision, recipe.memory_format, width, recipe.threads)
        if key not in probes:
            if recipe.threads:
                torch.set_num_threads(recipe.threads)
            channels_last = recipe.memory_format != "contiguous"
            probes[key] = Probe(device, batch, recipe.precision, channels_last=channels_last)
            probes[key].anchor(NetworkShape(anchor, width, classes, recipe.input_px))
        micro_batches = recipe.global_batch_size / batch
        step = probes[key].step_s(NetworkShape(model, width, classes, recipe.input_px), micro_batches)
        per_image = step / recipe.global_batch_size
        return per_image, per_image / 3  # backward costs twice what forward does

    name = torch.cuda.get_device_name() if on_gpu else f"this CPU ({torch.get_num_threads()} threads)"
    return seconds_of, f"predicted from a probe of {anchor} on {name}", probes


def _given(experiment: Experiment, text: str, on_cpu: bool) -> tuple[Callable, str]:
    """Scale one given speed by the arithmetic and moved bytes of every layer; less exact than a probe."""
    match = re.fullmatch(r"([^=]+)=(\d+(?:\.\d+)?)", text)
    if match is None or float(match[2]) <= 0:
        raise CompanionError(f"--images-per-s {text!r} is not of the form MODEL=NUMBER, such as RepVGG-B1=1200")
    from repvgg_companion.models.names import require_model
    from repvgg_companion.training.cost import NetworkShape, nominal_cost

    require_model(match[1])
    classes = experiment.data.num_classes or 1000

    def seconds_of(model: str, width: float, recipe: Recipe) -> tuple[float, float]:
        share = nominal_cost(NetworkShape(model, width, classes, recipe.input_px), on_cpu=on_cpu) / nominal_cost(
            NetworkShape(match[1], width, classes, recipe.input_px), on_cpu=on_cpu
        )
        return share / float(match[2]), share / float(match[2]) / 3

    told = f"scaled from {match[2]} images/s of {match[1]} by the arithmetic and the moved bytes of each layer (rough)"
    return seconds_of, told


def _anchor(experiment: Experiment) -> str:
    models = [model for group in experiment.training for model in group.models]
    small = any(recipe.input_px > LARGE_PX for recipe in experiment.recipes.values())
    wished = ("RepVGG-A0",) if small else ("RepVGG-B1g2", "RepVGG-B1", "RepVGG-A0")
    return next((model for model in wished if model in models), models[0])


def _table(costs: list[Cost], devices: int, word: str) -> list[str]:
    lines = [
        f"{'model':34} {'recipe':16} seeds epochs {'images/s':>9} {word + '-hours':>13} {'wall':>9} {'disk MB':>8}"
    ]
    for model, recipe in dict.fromkeys((cost.model, cost.recipe) for cost in costs):
        same = [cost for cost in costs if (cost.model, cost.recipe) == (model, recipe)]
        hours = sum(cost.device_s for cost in same) / 3600
        lines.append(
            f"{model:34} {recipe:16} {len(same):5} {same[0].epochs:6} {same[0].images_per_s:9.1f} {hours:13.3g} "
            f"{_told(hours * 3600 / min(devices, len(same) * same[0].gpus)):>9} "
            f"{sum(cost.disk_bytes for cost in same) / 1e6:8.0f}"
        )
    total = sum(cost.device_s for cost in costs)
    # No schedule is shorter than its longest job, nor than the work shared out evenly.
    wall = max([total / devices, *(cost.device_s / min(cost.gpus, devices) for cost in costs)])
    running = sum(sorted((cost.running_bytes for cost in costs), reverse=True)[:devices])
    disk = sum(cost.disk_bytes for cost in costs)
    lines.append(
        f"total: {total / 3600:.3g} {word}-hours, at least {_told(wall)} on {counted(devices, 'device')}, "
        f"{disk / 1e6:.0f} MB of weights and up to {running / 1e6:.0f} MB of checkpoints while training"
    )
    return lines


def _told(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 3 * 86400 else f"{seconds / 86400:.1f} d"


def read_claims() -> dict[str, frozenset[tuple[str, str]]]:
    """The trainings, as (model, recipe), that each claim of the paper about accuracy needs.

    Claims that name no recipe are about weights of others, which no training here decides.
    """
    needed = {}
    for row in Facts(PAPER).table("claims"):
        quantities = [quantity for term in parse(row["condition"]) for quantity in term.quantities]
        accuracies = [quantity for quantity in quantities if quantity.name == "top1"]
        if accuracies and all(quantity.recipe for quantity in accuracies):
            needed[row["id"]] = frozenset((quantity.subject, str(quantity.recipe)) for quantity in accuracies)
    return needed


def cheaper(costs: list[Cost], claims: dict[str, frozenset[tuple[str, str]]]) -> list[str]:
    """Which claims about accuracy can be decided, the cheapest next one first, and the total cost up to each."""
    price: dict[tuple[str, str], float] = {}
    for cost in costs:
        key = (cost.model, cost.recipe)
        price[key] = price.get(key, 0.0) + cost.device_s
    open_claims = {claim: needed for claim, needed in claims.items() if needed and needed <= set(price)}
    if not open_claims:
        return ["None of the paper's claims about accuracy rests on these trainings alone."]
    lines = ["What a cheaper part of it would decide (claims of paper/claims.csv about accuracy):"]
    trained: set[tuple[str, str]] = set()
    spent = 0.0
    while open_claims:
        extra = {claim: sum(price[key] for key in sorted(needed - trained)) for claim, needed in open_claims.items()}
        least = min(extra.values())
        now = sorted(claim for claim, value in extra.items() if value == least)
        added = sorted(set().union(*(open_claims[claim] for claim in now[:1])) - trained)
        trained |= set(added)
        spent += least
        decided = sorted(claim for claim, needed in open_claims.items() if needed <= trained)
        lines.append(
            f"  {spent / 3600:10.3g} device-hours  {', '.join(decided):24}  + {', '.join(model for model, _ in added)}"
        )
        open_claims = {claim: needed for claim, needed in open_claims.items() if claim not in decided}
    return lines


def cpu_processes(threads: int) -> int:
    """How many trainings with this many threads this CPU runs side by side."""
    return max(1, usable_cores() // max(threads, 1))
