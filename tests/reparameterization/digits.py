"""A small validation set of real digits, and train files of small networks, for the tests of the certificate."""

from pathlib import Path

import torch
from timm_oracle import randomize

from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.weights_file import save_weights

PROTOCOL = "crop32-bilinear-pillow"


def write_digit_folder(folder: Path, *, per_class: int = 3) -> None:
    """Write scikit-learn's digits as JPEG into FOLDER/{train,val}/<wnid>/."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        for number, image in enumerate(digits.images[digits.target == label][: 2 * per_class]):
            path = folder / ("train" if number < per_class else "val") / f"n0000000{label}" / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.uint8(image * 255 / 16)
            Image.fromarray(pixels).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=95)


def write_train_file(path: Path, model: str, *, width: float = 0.25, num_classes: int = 10, seed: int = 0) -> Path:
    """Write a train file whose batch norms differ from channel to channel and from branch to branch."""
    torch.manual_seed(seed)
    state = randomize(build_model(model, num_classes=num_classes, width=width), seed).state_dict()
    identity = WeightsIdentity(
        dataset="digits", dataset_sha256="0" * 64, model=model, width=width, num_classes=num_classes, recipe="none",
        training_digest="00000000", seed=str(seed), input_px=32,
    )  # fmt: skip
    save_weights(path, state, identity)
    return path
