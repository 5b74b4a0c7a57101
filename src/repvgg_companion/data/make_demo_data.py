"""The `make-demo-data` verb: writes scikit-learn's handwritten digits as archives in ILSVRC2012's layout.

1 797 real images of 10 classes (load_digits; 8x8 pixels, 17 levels), enlarged and stored as JPEG: a train tar of class
tars, a flat val tar, and a devkit with meta.mat and ground truth. The same digits give the same bytes on every run.
"""

import argparse
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from repvgg_companion.data.index.digests import SUMS_FILE
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, write_text

IMAGE_PX = 32
VALIDATION_SHARE = 6  # every sixth digit of a class is a validation image: 1 501 train, 296 val
DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"
# WNIDs outside WordNet's range (it ends at n15300051), so that nobody takes a digit for an ImageNet class.
WNIDS = [f"n990000{digit}{digit}" for digit in range(10)]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# The ILSVRC2012_ID of each digit: deliberately not in WNID order, as in the real devkit.
IDS = [4, 9, 1, 7, 10, 2, 6, 3, 8, 5]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `make-demo-data` verb."""
    parser.add_argument("--output", required=True, metavar="FOLDER")


def run(arguments: argparse.Namespace) -> None:
    """Write the three archives and their MD5SUMS; raises CompanionError if other archives have these names."""
    output = Path(arguments.output)
    train, val = _digits()
    archives = {
        "ILSVRC2012_img_train.tar": _train_archive(train),
        "ILSVRC2012_img_val.tar": _tar((f"ILSVRC2012_val_{i:08d}.JPEG", jpeg) for i, (_, jpeg) in enumerate(val, 1)),
        "ILSVRC2012_devkit_t12.tar.gz": _devkit([IDS[digit] for digit, _ in val], train),
    }
    for name, content in archives.items():
        path = output / name
        if path.exists() and (path.stat().st_size != len(content) or path.read_bytes() != content):
            raise CompanionError(f"{path} exists and holds something else; name another --output, or move it away")
    for name, content in archives.items():
        with atomic_path(output / name) as temporary:
            temporary.write_bytes(content)
    sums = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in archives.items()}
    write_text(output / SUMS_FILE, "".join(f"{md5}  {name}\n" for name, md5 in sums.items()))
    print(f"{output}: {len(train):,} training and {len(val):,} validation images of handwritten digits, 10 classes")


def _digits() -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise CompanionError(
            "the handwritten digits come from scikit-learn, which is not installed; install it"
        ) from None

    digits = load_digits()
    train: list[tuple[int, bytes]] = []
    val: list[tuple[int, bytes]] = []
    seen = [0] * 10
    for pixels, digit in zip(digits.images, digits.target):
        jpeg = _jpeg(pixels)
        seen[digit] += 1
        (val if seen[digit] % VALIDATION_SHARE == 0 else train).append((int(digit), jpeg))
    return train, val


def _jpeg(pixels: np.ndarray) -> bytes:
    """A digit of 8x8 levels 0 to 16 as a JPEG of 32x32 RGB pixels."""
    from PIL import Image

    small = Image.fromarray(np.minimum(pixels * 16, 255).astype(np.uint8))
    stream = io.BytesIO()
    small.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC).convert("RGB").save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _train_archive(train: list[tuple[int, bytes]]) -> bytes:
    inner: dict[int, list[tuple[str, bytes]]] = {}
    for digit, jpeg in train:
        members = inner.setdefault(digit, [])
        members.append((f"{WNIDS[digit]}_{len(members) + 1}.JPEG", jpeg))
    return _tar((f"{WNIDS[digit]}.tar", _tar(inner[digit])) for digit in sorted(inner))


def _tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _devkit(ids: list[int], train: list[tuple[int, bytes]]) -> bytes:
    truth = "".join(f"{number}\n" for number in ids).encode()
    content = _tar(
        [
            (f"{DEVKIT_FOLDER}/data/ILSVRC2012_validation_ground_truth.txt", truth),
            (f"{DEVKIT_FOLDER}/data/meta.mat", _meta_mat(train)),
        ]
    )
    return gzip.compress(content, mtime=0)


def _meta_mat(train: list[tuple[int, bytes]]) -> bytes:
    """`synsets` as in the real file: leaves with IDs 1 to 10 in ID order, then an inner node with children."""
    from scipy.io import savemat

    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.zeros(len(IDS) + 1, dtype=[(name, object) for name in fields])
    for place, (number, digit) in enumerate(sorted((number, digit) for digit, number in enumerate(IDS))):
        count = sum(label == digit for label, _ in train)
        gloss = f"the handwritten digit {digit}"
        synsets[place] = (float(number), WNIDS[digit], WORDS[digit], gloss, 0.0, np.zeros((0, 0)), 0.0, float(count))
    children = np.arange(1.0, len(IDS) + 1)
    synsets[-1] = (float(len(IDS) + 1), "n99100000", "digit", "a handwritten digit", 10.0, children, 1.0, 0.0)
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets.reshape(-1, 1)})
    content = bytearray(stream.getvalue())
    # The first 116 bytes are a free text in which savemat writes the time; a constant keeps the archive the same.
    content[:116] = b"MATLAB 5.0 MAT-file, handwritten digits in the layout of ILSVRC2012".ljust(116)
    return bytes(content)
