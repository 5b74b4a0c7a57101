"""A tiny folder in the layout of Cityscapes, made here: coloured areas whose colour tells their class."""

from pathlib import Path

import numpy as np
from PIL import Image

# Label id -> colour; 0 is void and counts nowhere.
COLOURS = {7: (128, 64, 128), 23: (70, 130, 180), 26: (200, 30, 40), 21: (20, 160, 40), 0: (0, 0, 0)}


def write_tree(root: Path, *, train: int = 8, val: int = 4, size: tuple[int, int] = (96, 64), seed: int = 0) -> Path:
    """Write `train` and `val` pairs of an image and its label map, of `size` (width, height), in two cities each."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            city = ("aachen", "bochum")[number % 2]
            stem = f"{city}/{city}_{number:06d}_000019"
            ids = _areas(random, *size)
            pixels = np.zeros((*ids.shape, 3), np.int64)
            for label_id, colour in COLOURS.items():
                pixels[ids == label_id] = colour
            pixels = np.clip(pixels + random.integers(-12, 13, pixels.shape), 0, 255)
            for part, end, content in (
                ("leftImg8bit", "leftImg8bit", pixels.astype(np.uint8)),
                ("gtFine", "gtFine_labelIds", ids),
            ):
                path = root / part / split / f"{stem}_{end}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path)
            (root / "gtFine" / split / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def _areas(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    ids = np.full((height, width), 23, np.uint8)
    ids[int(height * random.uniform(0.4, 0.6)) :] = 7
    for label_id in (26, 21, 0):
        left, top = random.integers(0, width * 2 // 3), random.integers(0, height * 2 // 3)
        ids[top : top + height // 3, left : left + width // 3] = label_id
    return ids
