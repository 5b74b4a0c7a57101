"""Our fused deploy networks against timm's way of measuring the same fused network, and against the machine's ceiling.

In: names of networks. Out: CSV on standard output, one row per network and peer, from one process in which ours and
timm's run in turn, round by round. timm's way is that of its `benchmark.py`: `create_model`, `reparameterize_model`,
eval mode, `torch.no_grad`, random input, with and without `channels_last`.

    python benchmarks/speed_against_timm.py --models RepVGG-A0 RepVGG-B1 --batch-size 1 --rounds 20
"""

import argparse
import csv
import sys
from collections.abc import Callable

import timm
import torch
from timm.utils.model import reparameterize_model

from repvgg_companion.machine.cpu import usable_cores
from repvgg_companion.machine.device import choose_device, device_label
from repvgg_companion.machine.torch_device import set_precision
from repvgg_companion.speed.backends import make_call
from repvgg_companion.speed.ceilings import ceiling_subjects
from repvgg_companion.speed.clocks import clock_for
from repvgg_companion.speed.harness import LIMITS, Rounds, Subject, measure_group
from repvgg_companion.speed.networks import Inputs, ModelForm, prepare
from repvgg_companion.speed.roofline import layers_of
from repvgg_companion.speed.statistics import rate_interval, speed_ratio

OURS = "ours"


def timm_name(model: str) -> str:
    """`RepVGG-B1g4` as timm calls it."""
    return model.lower().replace("-", "_")


def timm_call(model: str, batch_size: int, *, precision: str, channels_last: bool, device: str) -> Callable:
    """One batch in the way of timm's benchmark with its switch for re-parameterization."""
    network = reparameterize_model(timm.create_model(timm_name(model), pretrained=False).eval())
    memory_format = "channels_last" if channels_last else "contiguous"
    network = prepare(network.to(device), precision=precision, memory_format=memory_format)
    (images,) = Inputs(batch_size, (3, 224, 224), precision, memory_format, device).draw(1)

    def call() -> torch.Tensor:
        with torch.no_grad():
            return network(images)

    return call


def our_call(model: str, batch_size: int, *, backend: str, precision: str, device: str) -> Callable:
    """One batch of our deploy network by a backend."""
    model_form = ModelForm(model, "deploy")
    network = prepare(model_form.build(device=device), precision=precision, memory_format="channels_last")
    inputs = Inputs(batch_size, (3, 224, 224), precision, "channels_last", device).draw(model_form.buffers(batch_size))
    return make_call(backend, network, inputs, threads=torch.get_num_threads(), precision=precision)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["RepVGG-A0", "RepVGG-B1"])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--backends", nargs="+", default=["fused"])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    kind = choose_device("auto")
    torch.set_num_threads(usable_cores())
    set_precision(arguments.precision, kind)
    settings = {"precision": arguments.precision, "device": kind}
    columns = ["device", "model", "batch_size", "what", "examples_per_s", "low", "high", "share_of_ceiling",
               "ours_over_it", "ratio_low", "ratio_high"]  # fmt: skip
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    for model in arguments.models:
        layers = layers_of(ModelForm(model, "deploy"), 224)
        operations = arguments.batch_size * 2 * sum(layer.flops for layer in layers)
        with torch.inference_mode():
            subjects = [
                Subject(f"{OURS} {backend}", our_call(model, arguments.batch_size, backend=backend, **settings))
                for backend in arguments.backends
            ]
            subjects += [
                Subject(
                    f"timm {'channels_last' if last else 'contiguous'}",
                    timm_call(model, arguments.batch_size, channels_last=last, **settings),
                )
                for last in (False, True)
            ]
            ceiling, more = ceiling_subjects(arguments.precision, kind)
            rounds = Rounds(arguments.rounds, LIMITS[kind])
            result = measure_group([*subjects, *more], clock_for(kind), rounds)
        # The least time of a batch, by compute alone, against the ceiling of the same rounds.
        least = operations / ceiling.operations
        best = max(
            (subject.name for subject in subjects if subject.name.startswith(OURS)),
            key=lambda name: rate_interval(result.seconds(name), 1).value,
        )
        for subject in subjects:
            rate = rate_interval(result.seconds(subject.name), arguments.batch_size)
            ratio = speed_ratio(result.seconds(best), result.seconds(subject.name))
            share = least * speed_ratio(result.seconds(subject.name), result.seconds(more[0].name)).value
            values = (device_label(kind), model, arguments.batch_size, subject.name,
                      *(f"{value:.2f}" for value in (rate.value, rate.low, rate.high)), f"{share:.3f}",
                      *(f"{value:.3f}" for value in (ratio.value, ratio.low, ratio.high)))  # fmt: skip
            writer.writerow(dict(zip(columns, values, strict=True)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
