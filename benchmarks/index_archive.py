"""Preparing ImageNet: our index, with and without MD5, against torchvision's extraction of the same nested tar.

`python benchmarks/index_archive.py [JPEGS] [--images 2000] [--full]` in the activated .venv takes 20 seconds and 600 MB
of disk. `--full` also makes an archive of 1 281 167 tiny members in 1000 class tars (1.3 GB) and reports seconds and
peak memory of indexing it in a process of its own. No pass that hashes is faster than the row of MD5 alone.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from images import load_jpegs, write_train_tar
from interleaved import SOURCE, measure, print_machine, print_table
from repvgg_companion.data.index.source import HashedSource, SeekSource
from repvgg_companion.data.index.splits import train_from_archive

FULL_IMAGES, FULL_CLASSES = 1_281_167, 1000


def ours(path: Path, output: Path, open_source) -> int:
    """Read the headers and write the manifest; returns the number of images."""
    split = train_from_archive(str(path), open_source)
    manifest = split.builder.build(split.builder.classes, split.builder.classes)
    replace(manifest, stamps=split.stamps).write(output)
    return len(manifest)


def torchvision_extraction(path: Path, root: Path, *, verified: bool) -> int:
    """torchvision's `parse_train_archive` into an empty folder, with its own MD5 check or without."""
    from torchvision.datasets import imagenet

    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / path.name).symlink_to(path)
    if not verified:
        imagenet._verify_archive = lambda *arguments: None
    imagenet.parse_train_archive(str(root), path.name)
    return sum(len(files) for _, _, files in os.walk(root / "train"))


def md5_alone(path: Path, images: int) -> int:
    """Hash the archive block by block, as torchvision does first of all; returns the number of images in it."""
    with path.open("rb") as stream:
        hashlib.file_digest(stream, "md5")
    return images


def peers(path: Path, folder: Path, images: int, rounds: int) -> None:
    """The tables of ways to prepare the training images."""
    from torchvision.datasets import imagenet

    original = imagenet._verify_archive
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    imagenet.ARCHIVE_META["train"] = (path.name, digest)

    def extraction(verified: bool) -> int:
        imagenet._verify_archive = original
        return torchvision_extraction(path, folder / "extracted", verified=verified)

    runs = {
        "torchvision, extraction": lambda: extraction(False),
        "torchvision, MD5 and extraction": lambda: extraction(True),
        "MD5 alone": lambda: md5_alone(path, images),
        "index": lambda: ours(path, folder / "m.parquet", SeekSource),
        "index and MD5 in one pass": lambda: ours(path, folder / "m.parquet", HashedSource),
    }
    rates = measure(runs, rounds=rounds)
    print_table("Preparing the training images", rates, peer="torchvision, extraction")
    print_table("The same against all that torchvision does", rates, peer="torchvision, MD5 and extraction")


def write_full_archive(path: Path) -> None:
    """1 281 167 members of one byte in 1000 class tars; headers are written directly, which is quick."""
    counts = [FULL_IMAGES // FULL_CLASSES + (place < FULL_IMAGES % FULL_CLASSES) for place in range(FULL_CLASSES)]
    with path.open("wb") as stream:
        for place, count in enumerate(counts):
            wnid = f"n{10_000_000 + place:08d}"
            inner = io.BytesIO()
            for number in range(count):
                info = tarfile.TarInfo(f"{wnid}_{number}.JPEG")
                info.size = 1
                inner.write(info.tobuf(tarfile.USTAR_FORMAT) + b"x" + bytes(511))
            inner.write(bytes(-inner.tell() % 10240 + 10240))
            info = tarfile.TarInfo(f"{wnid}.tar")
            info.size = inner.tell()
            stream.write(info.tobuf(tarfile.USTAR_FORMAT) + inner.getvalue())
        stream.write(bytes(1024))


def write_full_validation(path: Path) -> None:
    """One tiny member for each of the 1000 classes, in class folders."""
    with tarfile.open(path, "w") as stream:
        for place in range(FULL_CLASSES):
            wnid = f"n{10_000_000 + place:08d}"
            info = tarfile.TarInfo(f"{wnid}/{wnid}_val.JPEG")
            info.size = 1
            stream.addfile(info, io.BytesIO(b"x"))


FULL_CODE = """
import re, sys, time
from repvgg_companion.__main__ import main
started = time.perf_counter()
assert main(sys.argv[1:]) == 0
seconds = time.perf_counter() - started
# Not ru_maxrss: that starts at the size of the process that forked this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(f"{seconds:.1f} s, peak memory {peak / 1024:.0f} MiB")
"""


def full(folder: Path) -> None:
    """Index the full-size archive with the verb, in a fresh process, so that its peak memory is its own."""
    archive, val = folder / "train.tar", folder / "val.tar"
    write_full_archive(archive)
    write_full_validation(val)
    words = ["index", "--dataset", "full", "--train-archive", archive, "--val-archive", val, "--output", folder / "out"]
    print(
        f"\n## {FULL_IMAGES:,} members in {FULL_CLASSES} class tars ({archive.stat().st_size / 1e9:.2f} GB)\n",
        flush=True,
    )
    subprocess.run(
        [sys.executable, "-c", FULL_CODE, *map(str, words)], check=True, env={**os.environ, "PYTHONPATH": str(SOURCE)}
    )
    print(f"{len(list((folder / 'out').iterdir()))} files created")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jpegs", nargs="?", help="tar or folder of JPEGs; default: made here")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only-full", action="store_true")
    arguments = parser.parse_args()
    print_machine("torchvision", "pyarrow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not arguments.only_full:
            path = folder / "ILSVRC2012_img_train.tar"
            write_train_tar(path, load_jpegs(arguments.jpegs, arguments.images))
            print(f"\n{arguments.images} JPEGs, {path.stat().st_size / 1e6:,.0f} MB, warm")
            started = time.perf_counter()
            peers(path, folder, arguments.images, arguments.rounds)
            print(f"\nmeasured in {time.perf_counter() - started:.0f} s")
        if arguments.full or arguments.only_full:
            full(folder)


if __name__ == "__main__":
    main()
