"""How many validation images are training images, byte for byte. Needs no torch.

Only images of equal class and length can be equal, so on data that was split well next to nothing is read.
"""

import numpy as np

from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.reader import ImageReader

MOST_COMPARED, MOST_READS = 50, 1000


def shared_images(train: Manifest, val: Manifest) -> tuple[int, int]:
    """How many of the compared validation images are training images, and how many were compared.

    At most `MOST_COMPARED` are compared, evenly spaced over those that have a training image's class and length, and
    at most `MOST_READS` training images are read. Raises CompanionError if an image cannot be read.
    """
    train_keys, val_keys = _keys(train), _keys(val)
    order = np.argsort(train_keys, kind="stable")
    ordered = train_keys[order]
    first, last = np.searchsorted(ordered, val_keys, "left"), np.searchsorted(ordered, val_keys, "right")
    candidates = np.flatnonzero(last > first)
    places = np.linspace(0, len(candidates) - 1, min(MOST_COMPARED, len(candidates))).round().astype(int)
    train_images, val_images = ImageReader(train), ImageReader(val)
    shared = compared = reads = 0
    for index in candidates[places].tolist():
        alike = order[first[index] : last[index]].tolist()
        reads += len(alike)
        if reads > MOST_READS:
            break
        image = val_images.read(index)
        shared += any(train_images.read(other) == image for other in alike)
        compared += 1
    return shared, compared


def _keys(manifest: Manifest) -> np.ndarray:
    """One number for class and length of each image; no image has 2**40 bytes."""
    return manifest.labels << 40 | manifest.lengths
