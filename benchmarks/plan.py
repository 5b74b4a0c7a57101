"""What `make plan` predicts for a training step, from one model's probe, against real steps of other models.

`python benchmarks/plan.py [--anchor RepVGG-B1g2] [--models RepVGG-A0 RepVGG-B0 ...] [--px 32] [--batch 32]`; on a GPU:
`--device cuda --width 1 --px 224 --batch 128`. Predicted and real steps are measured in turn, round by round, and the
least of each counts, as in the plan. On a CPU both are seconds of this process's processor time, which other work on
the machine disturbs less than the clock.
"""

import argparse
import time

import torch

from interleaved import print_machine
from repvgg_companion.training.cost import NetworkShape, Probe
from repvgg_companion.training.step_timing import REPEATS

MODELS = ("RepVGG-A0", "RepVGG-B0", "RepVGG-B1g4", "RepVGG-B3", "RepVGG-D2se")
BOUND = 0.15


def main() -> None:
    """Print one table; the last line says whether every prediction was within `BOUND`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anchor", default="RepVGG-B1g2", help="the model whose whole step is timed")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--px", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    print_machine("torch")
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    probe = Probe(device, arguments.batch, arguments.precision, clock=clock)
    print(
        f"{arguments.device}, {probe.precision}, {arguments.px} px, batch {arguments.batch}, width {arguments.width}, "
        f"{arguments.threads} threads; least of {arguments.rounds * REPEATS} calls each\n"
    )
    probe.anchor(NetworkShape(arguments.anchor, arguments.width, 10, arguments.px))
    networks = [NetworkShape(model, arguments.width, 10, arguments.px) for model in arguments.models]
    for number in range(arguments.rounds):
        if number:
            probe.refine()
        pairs = [(probe.step_s(network), probe.real_step_s(network)) for network in networks]
    print(f"| model | predicted from {arguments.anchor}, ms a step | real | predicted / real |")
    print("| --- | --- | --- | --- |")
    for network, (predicted, real) in zip(networks, pairs, strict=True):
        print(f"| {network.model} | {1e3 * predicted:.2f} | {1e3 * real:.2f} | {predicted / real:.3f} |")
    far = [network.model for network, (predicted, real) in zip(networks, pairs) if abs(predicted / real - 1) > BOUND]
    print(f"\nmore than {BOUND:.0%} off: {', '.join(far) if far else 'none'}")


if __name__ == "__main__":
    main()
