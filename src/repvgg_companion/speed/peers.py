"""Inference and training steps of ours beside timm's, in the same rounds: rows of `peers.csv`.

timm's networks hold their own random weights, so only speed is compared. The raw samples are in the run's JSON file.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import CpuMoment, busy_flags, foreign_share
from repvgg_companion.machine.device import machine_state
from repvgg_companion.machine.nvml import gpu_flags
from repvgg_companion.machine.torch_device import autocast, free_memory, is_out_of_memory, set_precision
from repvgg_companion.models.build import build_model
from repvgg_companion.speed.backends import make_call
from repvgg_companion.speed.clocks import clock_for
from repvgg_companion.speed.device_parts import PeerSettings
from repvgg_companion.speed.engines import Unavailable
from repvgg_companion.speed.harness import LIMITS, Rounds, Subject, measure_group
from repvgg_companion.speed.networks import Inputs, ModelForm, prepare
from repvgg_companion.speed.speed_settings import LEAST_ROUNDS
from repvgg_companion.speed.statistics import rate_interval, speed_ratio
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels
from repvgg_companion.training.decide import decide
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner, StepSums

CLASSES = 1000
Step = Callable[[], object]
Batch = tuple[torch.Tensor, torch.Tensor]
"""Images and labels."""


def timm_network(model: str) -> nn.Module:
    """Timm's network of the same name, in train form; raises CompanionError if timm is not installed."""
    try:
        import timm
    except ImportError:
        raise CompanionError("timm is not installed, so nothing is compared with it; install timm") from None
    return timm.create_model(model.lower().replace("-", "_"), pretrained=False, num_classes=CLASSES)


def compare_with_timm(model: str, settings: PeerSettings, kind: str) -> dict[str, Any]:
    """The seconds per batch of every way, in the order of the rounds, and what disturbed them; JSON values."""
    try:
        subjects, precision = _subjects(model, settings, kind)
        before, began = machine_state(kind), CpuMoment.now()
        result = measure_group(subjects, clock_for(kind), Rounds(LEAST_ROUNDS, LIMITS[kind]))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"model": model, "reason": f"out of memory at batch {settings.batch_size}"}
    flags = [*gpu_flags(before, machine_state(kind)), *busy_flags(foreign_share(began, CpuMoment.now()))]
    seconds = {subject.name: result.seconds(subject.name) for subject in subjects}
    subjects.clear()
    free_memory(kind)
    return {"model": model, "reason": "", "precision": precision, "seconds": seconds, "flags": flags}


def _subjects(model: str, settings: PeerSettings, kind: str) -> tuple[list[Subject], str]:
    if settings.training:
        return step_subjects(model, settings, torch.device(kind))
    set_precision(settings.precision, kind)
    graphs = ("cuda-graph", "fused-cuda-graph") if kind == "cuda" else ()
    calls: dict[str, Step] = {}
    with torch.inference_mode():
        for way in ("eager", "fused", *graphs):
            try:
                calls[f"ours {way}"] = _call(ModelForm(model, "deploy").build(device=kind), way, settings, kind)
            except Unavailable:
                continue
        theirs = timm_network(model)
        from timm.utils.model import reparameterize_model

        theirs = reparameterize_model(theirs.eval()).requires_grad_(False).to(kind)
        for way in ("eager", *graphs[:1]):
            calls[f"timm {way}"] = _call(theirs, way, settings, kind)
    return [Subject(name, call) for name, call in calls.items()], settings.precision


def _call(network: nn.Module, way: str, settings: PeerSettings, kind: str) -> Step:
    prepare(network, precision=settings.precision, memory_format="channels_last")
    size, px = settings.batch_size, settings.input_px
    inputs = Inputs(size, (3, px, px), settings.precision, "channels_last", kind).draw(2)
    call = make_call(way, network, inputs, threads=torch.get_num_threads(), precision=settings.precision)

    def run() -> object:
        with torch.inference_mode():
            return call.run()

    if not bool(torch.isfinite(torch.as_tensor(run()).float()).all()):
        raise CompanionError(f"the logits by {way} are not finite")
    return run


def step_subjects(model: str, settings: PeerSettings, device: torch.device) -> tuple[list[Subject], str]:
    """A training step of ours and one of timm's, both in the precision that ours chooses."""
    recipe = Recipe(
        epochs=1,
        global_batch_size=settings.batch_size,
        batch_norm_batch_size=settings.batch_size,
        input_px=settings.input_px,
    )
    batch = step_images(settings, device)
    network = avoid_faulty_and_slow_cpu_kernels(build_model(model, num_classes=CLASSES), device).to(device)
    decided = recipe.decided(decide(recipe, network, device, CLASSES))
    ours = our_step(network, decided, device, batch)
    theirs = plain_step(timm_network(model), device, batch, precision=decided.precision)
    subjects = [Subject("ours", _searched(ours, True)), Subject("timm", _searched(theirs, True))]
    if device.type == "cuda":
        subjects.append(Subject("ours, no algorithm search", _searched(ours, False)))
    return subjects, decided.precision


def _searched(step: Step, search: bool) -> Step:
    """A step for which cuDNN searches for its fastest algorithms, as in a training, or takes its first choice."""

    def run() -> object:
        torch.backends.cudnn.benchmark = search
        return step()

    return run


def step_images(settings: PeerSettings, device: torch.device) -> Batch:
    """Random uint8 images [N, 3, H, W] as a loader gives them, and their labels [N]; pinned for a GPU."""
    px = settings.input_px
    images = torch.randint(0, 256, (settings.batch_size, px, px, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.arange(settings.batch_size) % CLASSES
    return (images.pin_memory(), labels.pin_memory()) if device.type == "cuda" else (images, labels)


def our_step(network: nn.Module, recipe: Recipe, device: torch.device, batch: Batch) -> Step:
    """A call of our training step."""
    images, labels = batch
    learner = Learner(network, recipe, ProcessGroup(device), num_classes=CLASSES, seed=0)
    sums = StepSums(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))
    return lambda: learner.step(images, labels, step=0, rate=1e-3, sums=sums)


def plain_step(
    network: nn.Module,
    device: torch.device,
    batch: Batch,
    *,
    precision: str,
    channels_last: bool = True,
) -> Step:
    """The step that a PyTorch script has: autocast, cross-entropy, backward, `torch.optim.SGD`."""
    images, labels = batch
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        inputs = normalize(images, device=device, channels_last=channels_last)
        with autocast(precision, device):
            loss = nn.functional.cross_entropy(network(inputs), labels.to(device, non_blocking=True))
        loss.backward()
        optimizer.step()

    return step


def peer_rows(found: Mapping[str, Any], settings: PeerSettings) -> Iterator[dict[str, Any]]:
    """One row for each way, with its speed over that of timm's fastest way, paired round by round."""
    shared = {
        "model": found["model"],
        "work": "training step" if settings.training else "inference",
        "precision": found.get("precision", settings.precision),
        "batch_size": settings.batch_size,
        "input_px": settings.input_px,
    }
    if found["reason"]:
        yield shared | {"way": "none", "n_samples": 0, "flags": f"not measured: {found['reason']}"}
        return
    seconds = found["seconds"]
    theirs = [name for name in seconds if name.startswith("timm")]
    fastest = max(theirs, key=lambda name: rate_interval(seconds[name], settings.batch_size).value)
    for way, samples in seconds.items():
        rate = rate_interval(samples, settings.batch_size)
        ratio = speed_ratio(samples, seconds[fastest])
        yield shared | {
            "way": way,
            "examples_per_s": rate.value,
            "low_examples_per_s": rate.low,
            "high_examples_per_s": rate.high,
            "n_samples": rate.n,
            "over_timm": ratio.value,
            "low_over_timm": ratio.low,
            "high_over_timm": ratio.high,
            "flags": "; ".join(found["flags"]),
        }
