"""An epoch of training on small images: ours against a plain PyTorch loop, images, step and all, on one core.

`python benchmarks/small_training.py [JPEGS] [--px 64] [--width 0.25] [--images 2560]` takes some minutes. Both sides
train the same structure in bf16, channels-last, by crops and flips of the same JPEGs of that size. The plain loop is
what a script has: ImageFolder with torchvision's transforms on Pillow images, autocast, `torch.optim.SGD`. Ours is the
loop of the verb `train` without checkpoints and validation, with `decoder: opencv`; decoded images are kept after the
first epoch, which is not timed. Rates are images per CPU second of one thread.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from images import index, load_jpegs, write_tree
from interleaved import measure, print_machine, print_table
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.machine.torch_device import autocast
from repvgg_companion.models.build import build_model
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.step import Learner, StepSums
from training_input import image_folder, image_folder_loader
from training_input import ours as decoded

CPU = torch.device("cpu")
CLASSES = 10
PEER = "plain loop"


def plain(tree: Path, model: str, width: float, px: int, batch: int, precision: str):
    """An epoch of a plain PyTorch loop."""
    loader = image_folder_loader(tree, batch, 0, px)
    network = build_model(model, num_classes=CLASSES, width=width).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def run() -> int:
        images = 0
        for pixels, labels in loader:
            optimizer.zero_grad()
            with autocast(precision, CPU):
                outputs = network(pixels.to(memory_format=torch.channels_last))
                loss = torch.nn.functional.cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            images += len(labels)
        return images

    return run


def ours(manifest, model: str, width: float, px: int, batch: int, precision: str):
    """An epoch of ours."""
    recipe = Recipe(
        epochs=1, global_batch_size=batch, batch_norm_batch_size=batch, input_px=px, threads=1, precision=precision,
        memory_format="channels_last", decoder="opencv",
    )  # fmt: skip
    source = TrainingInput(manifest, input_px=px, augmentation="crop-flip", decoder="opencv", seed=0, workers=0)
    network = avoid_faulty_and_slow_cpu_kernels(build_model(model, num_classes=CLASSES, width=width), CPU)
    learner = Learner(network, recipe, ProcessGroup(CPU), num_classes=CLASSES, seed=0)
    sums = StepSums(torch.zeros(()), torch.zeros((), dtype=torch.int64))
    epochs = iter(range(1 << 30))

    def run() -> int:
        images = 0
        for step, (pixels, labels) in enumerate(source.batches(next(epochs), batch_size=batch)):
            learner.step(pixels, labels, step=step, rate=1e-3, sums=sums)
            images += len(labels)
        return images

    return run


def small(jpegs: list[bytes], px: int) -> list[bytes]:
    """The middle of each image as a JPEG of `px` pixels a side."""
    found = []
    for content in jpegs:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        stream = io.BytesIO()
        image.crop((left, top, left + side, top + side)).resize((px, px)).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jpegs", nargs="?", help="tar or folder of JPEGs; default: made here")
    parser.add_argument("--model", default="RepVGG-B0")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_machine("torch", "torchvision", "pillow", "opencv-python-headless")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tree(folder / "tree", small(load_jpegs(arguments.jpegs, arguments.images), arguments.px))
        manifest = index(folder, train_folder=folder / "tree")
        settings = (arguments.model, arguments.width, arguments.px, arguments.batch, arguments.precision)
        images = {
            PEER: image_folder(folder / "tree", arguments.batch, 0, arguments.px),
            "ours": decoded(manifest, "opencv", arguments.batch, 0, normalized=True, px=arguments.px),
        }
        alone = measure(images, rounds=arguments.rounds, clock=time.process_time)
        print_table(f"Images alone, {arguments.px} px", alone, peer=PEER)
        runs = {PEER: plain(folder / "tree", *settings), "ours": ours(manifest, *settings)}
        rates = measure(runs, rounds=arguments.rounds, clock=time.process_time)
    title = f"{arguments.model}, width {arguments.width:g}, {arguments.px} px, batch {arguments.batch}"
    print_table(f"Training, {title}, {arguments.precision}", rates, peer=PEER)


if __name__ == "__main__":
    main()
