"""A training step of ours against a plain PyTorch one in fp32 NCHW, and against timm's, in one run.

`python benchmarks/training_step.py [--models RepVGG-A0 RepVGG-B0 RepVGG-B3] [--px 32] [--batch 32] [--threads 1]`; on a
GPU: `--device cuda --models RepVGG-A0 RepVGG-B1 RepVGG-B1g4 --px 224 --batch 128`. All start from the same uint8 images
in memory and end with updated weights. Ours decides precision and memory format as at the first start of a training;
timm's step (its network, channels-last, autocast, torch's SGD) gets the same precision.
"""

import argparse
import time

import torch

from interleaved import measure, print_machine, print_table
from repvgg_companion.models.build import build_model
from repvgg_companion.speed.device_parts import PeerSettings
from repvgg_companion.speed.peers import CLASSES, our_step, plain_step, step_images, timm_network
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels
from repvgg_companion.training.decide import decide
from repvgg_companion.training.recipe import Recipe

PEER = "fp32 NCHW"


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
    batch = step_images(PeerSettings((), arguments.batch, input_px=arguments.px), device)
    for model in arguments.models:
        network = avoid_faulty_and_slow_cpu_kernels(build_model(model, num_classes=CLASSES), device).to(device)
        decided = recipe.decided(decide(recipe, network, device, CLASSES))
        precision = decided.precision
        label = f"ours ({precision}, {decided.memory_format})"
        ways = {
            PEER: plain_step(build_model(model), device, batch, precision="fp32", channels_last=False),
            label: our_step(network, decided, device, batch),
        }
        if device.type == "cpu" and precision == "bf16":  # in fp32 the faulty kernel would damage the heap
            untouched = build_model(model, num_classes=CLASSES)
            ways["ours, kernels as they are"] = our_step(untouched, decided, device, batch)
        if not arguments.no_timm:
            name = f"timm ({precision}, channels_last)"
            ways[name] = plain_step(timm_network(model), device, batch, precision=precision)
        runs = {name: steps(step, device, arguments.batch, arguments.seconds) for name, step in ways.items()}
        rates = measure(runs, rounds=arguments.rounds, clock=clock)
        title = f"{model}, {arguments.px} px, batch {arguments.batch}, {arguments.threads} threads"
        print_table(title, rates, peer=PEER)
        if not arguments.no_timm:
            ratios = sorted(mine / other for mine, other in zip(rates[label], rates[name]))
            print(f"\nours / timm: {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
