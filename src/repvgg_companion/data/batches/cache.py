"""The `cache` verb: decodes the validation images once under a protocol, for every model and both forms.

The cache is one .npy file, uint8 [n, px, px, 3], which its readers map into memory. What it was made from follows the
array as JSON, so that a cache of other images or another protocol is never used.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from repvgg_companion.data.batches.decoded_cache import MAGIC, archive_stamps
from repvgg_companion.data.batches.evaluation_input import evaluation_batches
from repvgg_companion.data.decode import POLICIES, UndecodableImages
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path
from repvgg_companion.machine.cpu import usable_cores
from repvgg_companion.progress import Progress

BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `cache` verb."""
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--protocol", required=True, metavar="LABEL")
    parser.add_argument("--output", required=True, metavar="FILE.npy")
    parser.add_argument("--workers", type=int, default=usable_cores() if sys.platform == "linux" else 1)
    parser.add_argument("--undecodable", choices=POLICIES, default="stop", help="default: stop")


def run(arguments: argparse.Namespace) -> None:
    """Write the cache of a validation manifest."""
    manifest, protocol = Manifest.read(arguments.manifest), EvaluationProtocol.parse(arguments.protocol)
    undecodable = UndecodableImages(arguments.undecodable)
    write_cache(arguments.output, manifest, protocol, workers=arguments.workers, undecodable=undecodable)
    for item in undecodable.found.values():
        print(f"cache: undecodable: {item.where}: {item.reason}", file=sys.stderr)
    print(f"{arguments.output}: {len(manifest):,} images, {len(undecodable)} undecodable")


def cache_bytes(manifest: Manifest, protocol: EvaluationProtocol) -> int:
    """The size in bytes of the array that the cache will hold."""
    return len(manifest) * 3 * protocol.crop_px**2


def write_cache(
    output: str | Path,
    manifest: Manifest,
    protocol: EvaluationProtocol,
    *,
    workers: int = 0,
    undecodable: UndecodableImages | None = None,
) -> None:
    """Decode every image once into `output`, by rename.

    The size is announced first. Raises CompanionError if the disk has no room for it or fills up while writing.
    """
    undecodable = UndecodableImages() if undecodable is None else undecodable
    size, px = cache_bytes(manifest, protocol), protocol.crop_px
    print(f"cache: {len(manifest):,} images of {px} px need {size / 1e9:,.2f} GB at {output}", file=sys.stderr)
    folder = Path(output).parent
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CompanionError(
            f"{output} needs {size / 1e9:,.2f} GB but its disk has {free / 1e9:,.2f} GB left; free some space, or "
            "evaluate without a cache (data.cache: false)"
        )
    batches = evaluation_batches(manifest, protocol, batch_size=BATCH, workers=workers, undecodable=undecodable)
    try:
        with (
            atomic_path(output) as temporary,
            temporary.open("wb") as stream,
            Progress("decoding", total=len(manifest), unit="images") as progress,
        ):
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(manifest), px, px, 3)}
            np.lib.format.write_array_header_1_0(stream, header)
            for images, _ in batches:
                stream.write(memoryview(images.permute(0, 2, 3, 1).contiguous().numpy().data).cast("B"))
                progress.advance(len(images))
            facts = {
                "manifest_sha256": manifest.sha256,
                "archives": archive_stamps(manifest),
                "protocol": protocol.label,
                "undecodable": [list(item) for item in undecodable.found.values()],
            }
            text = json.dumps(facts, sort_keys=True).encode()
            stream.write(text + len(text).to_bytes(8, "little") + MAGIC)
    except OSError as error:
        raise CompanionError(f"{output} cannot be written: {error.strerror}; nothing was kept of it") from None
