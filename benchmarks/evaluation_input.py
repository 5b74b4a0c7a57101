"""Evaluation batches: exact, fast and cached input against Pillow transforms and timm's loader, with pixel differences.

`python benchmarks/evaluation_input.py [JPEGS] [--images 200] [--workers 2]` in the activated .venv takes two minutes:
one core for the first table; then the input side of 28 evaluations (14 variants, two forms), the making of the cache
included, against 28 passes of timm's loader.
"""

import argparse
import tempfile
import time
from pathlib import Path

from images import index, load_jpegs, write_train_tar, write_tree
from interleaved import measure, print_machine, print_table
from repvgg_companion.data.batches.cache import write_cache
from repvgg_companion.data.batches.evaluation_input import evaluation_batches
from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.data.protocols import EvaluationProtocol

EXACT = EvaluationProtocol(256, 224)
FAST = EvaluationProtocol(256, 224, decoder="torchvision")
EVALUATIONS = 28
PEER = "ImageFolder and Pillow"


def ours(manifest, protocol: EvaluationProtocol, batch: int, *, normalized: bool = False, **options):
    """A pass of our batches: uint8, as they go to the device, or normalised here as well."""

    def run() -> int:
        images = 0
        for pixels, labels in evaluation_batches(manifest, protocol, batch_size=batch, **options):
            if normalized:
                normalize(pixels, device="cpu", channels_last=True)
            images += len(labels)
        return images

    return run


def image_folder(tree: Path, batch: int, workers: int):
    """A pass of the PyTorch ImageNet example's validation loader."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    dataset = datasets.ImageFolder(str(tree), transforms.Compose(steps))
    loader = DataLoader(dataset, batch_size=batch, num_workers=workers)
    return lambda: sum(len(labels) for _, labels in loader)


def timm_loader(tree: Path, batch: int, workers: int):
    """A pass of timm's loader under the same protocol."""
    import torch
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(tree)),
        input_size=(3, 224, 224),
        batch_size=batch,
        use_prefetcher=True,
        interpolation="bilinear",
        crop_pct=0.875,
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=False,
        pin_memory=False,
    )
    return lambda: sum(len(labels) for _, labels in loader)


def print_differences(manifest, tree: Path) -> None:
    """The largest and mean differences of both modes to torchvision's transforms on Pillow images, over all images."""
    import torch
    from torchvision import datasets, transforms

    peer = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    expected = datasets.ImageFolder(str(tree), peer)
    print("\n| mode | largest difference in levels | mean | pixels that differ |\n| --- | --- | --- | --- |")
    for name, protocol in (("exact", EXACT), ("fast", FAST)):
        batches = evaluation_batches(manifest, protocol, batch_size=50)
        ours_all = torch.cat([pixels for pixels, _ in batches]).int()
        gaps = torch.stack([(ours_all[place] - expected[place][0].int()).abs() for place in range(len(expected))])
        print(f"| {name} | {gaps.max()} | {gaps.float().mean():.5f} | {(gaps > 0).float().mean():.3%} |")


def print_evaluations(manifest, tree: Path, folder: Path, batch: int, workers: int) -> None:
    """28 passes: from a cache that is made first, and by timm's loader (one pass of it measured 3 times)."""
    theirs = timm_loader(tree, batch, workers)
    cached = ours(manifest, EXACT, batch, cache=folder / "cache.npy")
    ratios = []
    for _ in range(3):
        started = time.perf_counter()
        theirs()
        one_pass = time.perf_counter() - started
        started = time.perf_counter()
        write_cache(folder / "cache.npy", manifest, EXACT, workers=workers)
        for _ in range(EVALUATIONS):
            cached()
        all_passes = time.perf_counter() - started
        ratios.append(EVALUATIONS * one_pass / all_passes)
        print(f"28 passes of timm {EVALUATIONS * one_pass:.1f} s, cache made and read 28 times {all_passes:.2f} s")
    print(
        f"\n28 evaluations from the cache: {sorted(ratios)[1]:.1f} times faster "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )


def main() -> None:
    """Print the tables."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jpegs", nargs="?", help="tar or folder of JPEGs; default: made here")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--many", type=int, default=1000, help="images of the 28 evaluations")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_machine("torch", "torchvision", "timm", "pillow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpegs = load_jpegs(arguments.jpegs, arguments.many)
        write_tree(folder / "tree", jpegs[: arguments.images])
        write_train_tar(folder / "train.tar", jpegs[: arguments.images])
        manifest = index(folder, train_archive=folder / "train.tar")
        write_cache(folder / "few.npy", manifest, EXACT, workers=arguments.workers)
        runs = {
            PEER: image_folder(folder / "tree", arguments.batch, 0),
            "timm create_loader": timm_loader(folder / "tree", arguments.batch, 0),
            "ours, exact": ours(manifest, EXACT, arguments.batch),
            "ours, fast": ours(manifest, FAST, arguments.batch),
            "ours, cache": ours(manifest, EXACT, arguments.batch, cache=folder / "few.npy"),
            "ours, exact, normalised on the CPU too": ours(manifest, EXACT, arguments.batch, normalized=True),
            "ours, fast, normalised on the CPU too": ours(manifest, FAST, arguments.batch, normalized=True),
            "ours, cache, normalised on the CPU too": ours(
                manifest, EXACT, arguments.batch, cache=folder / "few.npy", normalized=True
            ),
        }
        rates = measure(runs, rounds=arguments.rounds, clock=time.process_time)
        print_table("Resize 256, CenterCrop 224, per core (CPU seconds, no workers)", rates, peer=PEER)
        print_differences(manifest, folder / "tree")
        write_tree(folder / "many", jpegs)
        write_train_tar(folder / "many.tar", jpegs)
        many = index(folder, train_archive=folder / "many.tar")
        print(f"\n## 28 evaluations of {len(many)} images, input side, {arguments.workers} workers\n", flush=True)
        print_evaluations(many, folder / "many", folder, arguments.batch, arguments.workers)


if __name__ == "__main__":
    main()
