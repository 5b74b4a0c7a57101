"""Training batches per core: our input against ImageFolder with Pillow transforms and timm's loader.

`python benchmarks/training_input.py [JPEGS] [--images 200] [--workers 0]` in the activated .venv takes a minute: with
workers the loaders are compared as users start them; without, one core does all the work. Ours deliver uint8 that the
device normalises (a GPU does it in no time); rows with that work done on the CPU stand beside them.
"""

import argparse
import tempfile
import time
from pathlib import Path

from images import index, load_jpegs, write_train_tar, write_tree
from interleaved import measure, print_machine, print_table
from repvgg_companion.data.batches import training_input
from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.data.index.pack import write_packed

PX = 224
PEER = "ImageFolder and Pillow"


def ours(manifest, decoder: str, batch: int, workers: int, *, normalized: bool = False, px: int = PX):
    """An epoch of our batches: uint8, as they go to the device, or normalised here as well."""
    source = TrainingInput(manifest, input_px=px, augmentation="crop-flip", decoder=decoder, seed=0, workers=workers)
    epochs = iter(range(1 << 30))

    def run() -> int:
        images = 0
        for pixels, labels in source.batches(next(epochs), batch_size=batch):
            if normalized:
                normalize(pixels, device="cpu")
            images += len(labels)
        return images

    return run


def image_folder_loader(tree: Path, batch: int, workers: int, px: int = PX):
    """The PyTorch ImageNet example's loader."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(px),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    dataset = datasets.ImageFolder(str(tree), transforms.Compose(steps))
    return DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)


def image_folder(tree: Path, batch: int, workers: int, px: int = PX):
    """An epoch of that loader."""
    loader = image_folder_loader(tree, batch, workers, px)
    return lambda: sum(len(labels) for _, labels in loader)


def timm_loader(tree: Path, batch: int, workers: int):
    """An epoch of timm's loader: uint8 collation, the same crop and flip, normalised on whole batches."""
    import torch
    from timm.data import create_dataset, create_loader

    # Without colour jitter and with one interpolation, so that the work is the same as everywhere else here.
    loader = create_loader(
        create_dataset("", root=str(tree)),
        input_size=(3, PX, PX),
        batch_size=batch,
        is_training=True,
        use_prefetcher=True,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=False,
        pin_memory=False,
    )
    return lambda: sum(len(labels) for _, labels in loader)


def main() -> None:
    """Print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jpegs", nargs="?", help="tar or folder of JPEGs; default: made here")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep decoded images, as for small sets")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if not arguments.keep:
        training_input.MOST_BYTES_IN_MEMORY = 0
    if not arguments.workers:
        torch.set_num_threads(1)
    print_machine("torch", "torchvision", "timm", "pillow", "simplejpeg", "opencv-python-headless")
    with tempfile.TemporaryDirectory() as name:
        folder, jpegs = Path(name), load_jpegs(arguments.jpegs, arguments.images)
        write_tree(folder / "tree", jpegs)
        write_train_tar(folder / "train.tar", jpegs)
        manifest = index(folder, train_archive=folder / "train.tar")
        packed = write_packed(folder / "packed.parquet", manifest, workers=2)
        size = (arguments.batch, arguments.workers)
        runs = {
            PEER: image_folder(folder / "tree", *size),
            "timm create_loader": timm_loader(folder / "tree", *size),
            "ours, torchvision decoder": ours(manifest, "torchvision", *size),
            "ours, pillow decoder": ours(manifest, "pillow", *size),
            "ours, packed copy": ours(packed, "opencv", *size),
            "ours, torchvision decoder, normalised on the CPU too": ours(
                manifest, "torchvision", *size, normalized=True
            ),
            "ours, packed copy, normalised on the CPU too": ours(packed, "opencv", *size, normalized=True),
        }
        clock = time.perf_counter if arguments.workers else time.process_time
        rates = measure(runs, rounds=arguments.rounds, clock=clock)
    workers = f"{arguments.workers} workers" if arguments.workers else "per core (CPU seconds, no workers)"
    print_table(f"RandomResizedCrop {PX} and flip, {workers}", rates, peer=PEER)
    print_table(f"The same against timm, {workers}", rates, peer="timm create_loader")


if __name__ == "__main__":
    main()
