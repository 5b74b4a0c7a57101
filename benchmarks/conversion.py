"""Converting all fourteen full-size RepVGGs to deploy form: float64 arithmetic, rounding, and the bitwise comparison.

`python benchmarks/conversion.py [--rounds 3]`. Making the weights is not counted. Seconds of the clock, on as many
threads as a conversion takes (one).
"""

import argparse
import time

import torch

from interleaved import print_machine
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import REPVGG_MODELS
from repvgg_companion.reparameterization.agreement import same_bits
from repvgg_companion.reparameterization.convert import convert

BOUND_S = 5


def random_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of `module`'s shapes: weights and running statistics from 0.5 to 1.5, counters 0."""
    return {
        key: torch.rand(tensor.shape).add_(0.5) if tensor.is_floating_point() else tensor.new_zeros((), device="cpu")
        for key, tensor in module.state_dict().items()
    }


def main() -> None:
    """Print one table, a row for each network with the least of all rounds, and their sum against `BOUND_S`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print_machine("torch")
    print(f"float32 in and out, least of {rounds} rounds\n")
    print("| model | parameters, millions | conversion, s | comparison, s |\n| --- | --- | --- | --- |")
    total = 0.0
    for name in REPVGG_MODELS:
        with torch.device("meta"):
            module = build_model(name)
        state = random_state(module)
        conversion, comparison = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            converted = convert(module, state, dtype=torch.float32)
            conversion.append(time.perf_counter() - started)
            again = {key: tensor.clone() for key, tensor in converted.items()}
            started = time.perf_counter()
            different = same_bits(converted, again)
            comparison.append(time.perf_counter() - started)
            if different:
                raise SystemExit(f"{name}: {different[0]} differs from its own copy")
        total += min(conversion) + min(comparison)
        millions = sum(parameter.numel() for parameter in module.parameters()) / 1e6
        print(f"| {name} | {millions:.1f} | {min(conversion):.3f} | {min(comparison):.3f} |")
    print(f"\nall fourteen: {total:.2f} s (bound {BOUND_S} s)")


if __name__ == "__main__":
    main()
