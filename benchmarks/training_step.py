"""A training step of ours against a plain PyTorch one in fp32 NCHW, and against timm's, in one run.

`python benchmarks/training_step.py [--models RepVGG-A0 RepVGG-B0 RepVGG-B3] [--px 32] [--batch 32] [--threads 1]`; on a
GPU: `--device cuda --models RepVGG-A0 RepVGG-B1 RepVGG-B1g4 --px 224 --batch 128`. All start from the same uint8 images
in memory and end with updated weights. Ours decides precision and memory format as at the first start of a training;
timm's step (its network, channels-last, autocast, torch's SGD) gets the same precision.
"""

import argparse
import time

import torch
from torch import nn

from interleaved import measure, print_machine, print_table
from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.machine.torch_device import autocast
from repvgg_companion.models.build import build_model
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels
from repvgg_companion.training.decide import decide
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner, StepSums

CLASSES = 1000
PEER = "fp32 NCHW"


def ours(network: nn.Module, recipe: Recipe, device: torch.device, images: torch.Tensor, labels: torch.Tensor):
    """Our step."""
    learner = Learner(network, recipe, ProcessGroup(device), num_classes=CLASSES, seed=0)
    sums = StepSums(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))
    return lambda: learner.step(images, labels, step=0, rate=1e-3, sums=sums)


def plain(network: nn.Module, device: torch.device, images, labels, *, precision: str, channels_last: bool):
    """The step that a PyTorch script has: autocast, cross-entropy, backward, `torch.optim.SGD`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        inputs = normalize(images, device=device, channels_last=channels_last)
        with autocast(precision, device):
            loss = nn.functional.cross_entropy(network(inputs), labels.to(device, non_blocking=True))
        loss.backward()
        optimizer.step()

    return step


def steps(step, device: torch.device, batch: int, seconds: float):
    """Several steps as one call for `measure`, as many as take about `seconds`; waits for the device at the end."""

    def run(count: int) -> int:
        for _ in range(count):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return count * batch

    run(2)
    started = time.perf_counter()
    run(1)
    count = max(1, round(seconds / (time.perf_counter() - started)))
    return lambda: run(count)


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["RepVGG-A0", "RepVGG-B0", "RepVGG-B3"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--px", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per way and round")
    parser.add_argument("--no-timm", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time: with 1 thread, whatever else runs")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    print_machine("torch", "timm")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    recipe = Recipe(
        epochs=1,
        global_batch_size=arguments.batch,
        batch_norm_batch_size=arguments.batch,
        input_px=arguments.px,
        threads=arguments.threads,
    )
    images = torch.randint(0, 256, (arguments.batch, arguments.px, arguments.px, 3), dtype=torch.uint8)
    images, labels = images.permute(0, 3, 1, 2), torch.arange(arguments.batch) % CLASSES
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    for model in arguments.models:
        network = avoid_faulty_and_slow_cpu_kernels(build_model(model, num_classes=CLASSES), device).to(device)
        decided = recipe.decided(decide(recipe, network, device, CLASSES))
        precision = decided.precision
        label = f"ours ({precision}, {decided.memory_format})"
        ways = {
            PEER: plain(build_model(model), device, images, labels, precision="fp32", channels_last=False),
            label: ours(network, decided, device, images, labels),
        }
        if device.type == "cpu" and precision == "bf16":  # in fp32 the faulty kernel would damage the heap
            ways["ours, kernels as they are"] = ours(
                build_model(model, num_classes=CLASSES), decided, device, images, labels
            )
        if not arguments.no_timm:
            import timm

            theirs = timm.create_model(model.lower().replace("-", "_"), num_classes=CLASSES)
            name = f"timm ({precision}, channels_last)"
            ways[name] = plain(theirs, device, images, labels, precision=precision, channels_last=True)
        runs = {name: steps(step, device, arguments.batch, arguments.seconds) for name, step in ways.items()}
        rates = measure(runs, rounds=arguments.rounds, clock=clock)
        title = f"{model}, {arguments.px} px, batch {arguments.batch}, {arguments.threads} threads"
        print_table(title, rates, peer=PEER)
        if not arguments.no_timm:
            ratios = sorted(mine / other for mine, other in zip(rates[label], rates[name]))
            print(f"\nours / timm: {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
