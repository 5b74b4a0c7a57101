"""Direct against Winograd convolutions on this CPU, layer by layer: where F(2x2, 3x3) begins to gain.

`python benchmarks/winograd.py [--models ...] [--batch-size 8]` in the activated .venv takes 10 seconds a layer.
The last column is what `repvgg_companion/speed/winograd.py` decides by.
"""

import argparse
import ctypes
import statistics

import torch
from torch import nn

from interleaved import measure, print_machine
from repvgg_companion.complexity.layers import Layer
from repvgg_companion.machine.cpu import usable_cores
from repvgg_companion.speed.backends import make_call
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.speed.roofline import layers_of
from repvgg_companion.speed.winograd import LEAST_SAVING, WinogradConvolution, saving

MODELS = ("RepVGG-A0", "RepVGG-A1", "RepVGG-B1", "RepVGG-B1g4", "ResNet-18")
LEAST_CHANNELS = 64


def layers_by_width(models: list[str]) -> list[Layer]:
    """The 3x3 convolutions of stride 1 of the models, one of each shape, by their width."""
    layers = [layer for model in models for layer in layers_of(ModelForm(model, "deploy", 1.0, 1000), 224)]
    found = {
        (layer.in_channels, layer.out_channels, layer.groups, layer.output_px): layer
        for layer in layers
        if layer.winograd_shape and layer.in_channels >= LEAST_CHANNELS
    }
    return [found[shape] for shape in sorted(found)]


def compare(layer: Layer, batch_size: int, rounds: int) -> str:
    """One line of the table."""
    px = layer.output_px
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, groups=layer.groups).requires_grad_(False)
    images = torch.randn(batch_size, layer.in_channels, px, px).to(memory_format=torch.channels_last)
    relu, threads = nn.ReLU(), torch.get_num_threads()

    def batch(call) -> int:
        call()
        return 2 * batch_size * layer.flops

    with torch.inference_mode():
        direct = make_call("fused", nn.Sequential(conv, relu).eval(), [images], threads=threads)
        winograd = make_call(
            "compile", nn.Sequential(WinogradConvolution(conv), relu).eval(), [images], threads=threads
        )
        rates = measure({"direct": lambda: batch(direct), "winograd": lambda: batch(winograd)}, rounds=rounds)
    ratios = [ours / theirs for ours, theirs in zip(rates["winograd"], rates["direct"])]
    saved = saving(layer, batch_size)
    return (
        f"| {layer.in_channels} to {layer.out_channels}, {layer.groups} groups, {px} px "
        f"| {statistics.median(rates['direct']) / 1e9:.0f} | {statistics.median(rates['winograd']) / 1e9:.0f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"| {saved:.0f}{', chosen' if saved >= LEAST_SAVING else ''} |"
    )


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, as it does in a whole network; one layer alone would get fresh pages each time."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(usable_cores())
    print_machine("torch")
    print(
        f"fp32, batch {arguments.batch_size}, {torch.get_num_threads()} threads; GFLOP/s count the operations of the "
        "direct convolution\n"
    )
    print(
        "| layer | direct, GFLOP/s | Winograd, GFLOP/s | ratio (lowest to highest) "
        "| multiply-adds saved for each value moved |"
    )
    print("| --- | --- | --- | --- | --- |")
    for layer in layers_by_width(arguments.models):
        print(compare(layer, arguments.batch_size, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
