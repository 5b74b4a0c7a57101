"""The `pack` verb: writes a smaller, re-encoded copy of the training images: one plain tar and a manifest of its own.

For throughput-first training: images with a longer short side are shrunk, and all are written as JPEG. The copy is
other data: its manifest has its own digest and a label (`short256-q90`), which every result made with it carries.
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from repvgg_companion.data.batches.loading import load
from repvgg_companion.data.decode import POLICIES, UndecodableImage, UndecodableImages, decode_simplejpeg
from repvgg_companion.data.images import ImageColumns, emptied
from repvgg_companion.data.index.image_tar import ImageTar
from repvgg_companion.data.manifest import Manifest, ManifestBuilder
from repvgg_companion.data.reader import ImageReader
from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import usable_cores
from repvgg_companion.progress import Progress

SHORT_SIDE_PX = 256
QUALITY = 90
CHUNK = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `pack` verb."""
    parser.add_argument("--manifest", required=True, help="the manifest of the images themselves")
    parser.add_argument("--output", required=True, metavar="FILE.parquet", help="the tar is written beside it")
    parser.add_argument("--short-side", type=int, default=SHORT_SIDE_PX, metavar="PX", help=f"default: {SHORT_SIDE_PX}")
    parser.add_argument("--quality", type=int, default=QUALITY, help=f"JPEG quality, default: {QUALITY}")
    parser.add_argument("--workers", type=int, default=usable_cores() if sys.platform == "linux" else 1)
    parser.add_argument("--undecodable", choices=POLICIES, default="stop", help="default: stop; count leaves them out")


def run(arguments: argparse.Namespace) -> None:
    """Write the packed copy of one split."""
    manifest, undecodable = Manifest.read(arguments.manifest), UndecodableImages(arguments.undecodable)
    packed = write_packed(
        arguments.output,
        manifest,
        short_side_px=arguments.short_side,
        quality=arguments.quality,
        workers=arguments.workers,
        undecodable=undecodable,
    )
    for item in undecodable.found.values():
        print(f"pack: undecodable: {item.where}: {item.reason}", file=sys.stderr)
    before, after = manifest.lengths.sum() / 1e6, packed.lengths.sum() / 1e6
    print(f"{arguments.output}: {len(packed):,} images, {after:,.1f} MB instead of {before:,.1f} MB")


def packed_label(short_side_px: int, quality: int) -> str:
    """The label of a packed copy, such as `short256-q90`."""
    return f"short{short_side_px}-q{quality}"


def write_packed(  # noqa: PLR0913 - options of the verb, each with a default
    output: str | Path,
    manifest: Manifest,
    *,
    short_side_px: int = SHORT_SIDE_PX,
    quality: int = QUALITY,
    workers: int = 0,
    undecodable: UndecodableImages | None = None,
) -> Manifest:
    """Write `output` (a manifest) and the tar of the same name beside it; returns the manifest.

    Raises CompanionError if `manifest` is a packed copy already, it or one of its archives would be overwritten, an
    image cannot be decoded under the policy `stop`, or the disk fills up; under `count` such images are left out and
    listed.
    """
    if manifest.packed:
        raise CompanionError(f"{manifest.path} is a packed copy already; name the manifest of the images themselves")
    if short_side_px < 1 or not 1 <= quality <= 100:
        raise CompanionError("the short side is at least 1 pixel, and the quality 1 to 100")
    target = Path(output).with_suffix(".tar")
    if Path(output).suffix != ".parquet":
        raise CompanionError(f"--output {output} is a manifest and ends in .parquet; the images go to {target}")
    originals = {Path(path).resolve() for path in (manifest.path, *manifest.stamps) if path}
    if taken := originals & {Path(output).resolve(), target.resolve()}:
        raise CompanionError(f"packing would overwrite {min(taken)}, which it reads; name another --output")
    undecodable = UndecodableImages() if undecodable is None else undecodable
    encoder = _Encoder(ImageReader(manifest).open(), short_side_px, quality)
    builder, classes = ManifestBuilder(), dict[str, ImageColumns]()
    try:
        with (
            ExitStack() as naming,
            ImageTar(target, naming) as tar,
            Progress("packing", total=len(manifest), unit="images") as progress,
        ):
            chunks = load(encoder, range(-(-len(manifest) // CHUNK)), workers=workers if workers > 1 else 0)
            for index, content in enumerate(chain.from_iterable(chunks)):
                if isinstance(content, str):
                    undecodable.report(manifest, index, content)
                else:
                    wnid = manifest.classes[manifest.labels[index]]
                    place = tar.add(wnid, manifest.names[index], content)
                    classes.setdefault(wnid, ImageColumns()).append(*place)
                progress.advance()
    except OSError as error:
        raise CompanionError(f"{target} cannot be written: {error.strerror}; nothing was kept of it") from None
    for wnid, images in emptied(classes):
        builder.add_class(wnid, images)
    packed = replace(
        builder.build(manifest.classes, manifest.class_names),
        stamps={tar.path: tar.stamp},
        packed=packed_label(short_side_px, quality),
        source_sha256=manifest.sha256,
        label_order=manifest.label_order,
    )
    packed.write(output, flush=True)
    return packed


class _Encoder:
    """Re-encodes a chunk of images; a `str` instead of bytes says why an image cannot be decoded."""

    def __init__(self, reader: ImageReader, short_side_px: int, quality: int) -> None:
        self.reader, self.short_side_px, self.quality = reader, short_side_px, quality

    def __getitem__(self, chunk: int) -> list[bytes | str]:
        stop = min((chunk + 1) * CHUNK, len(self.reader.manifest))
        return [self._encoded(index) for index in range(chunk * CHUNK, stop)]

    def _encoded(self, index: int) -> bytes | str:
        import simplejpeg

        data = self.reader.read(index)
        try:
            pixels = decode_simplejpeg(data)
        except UndecodableImage as error:
            return str(error)
        shrunk = _shrunk(pixels, self.short_side_px)
        return simplejpeg.encode_jpeg(np.ascontiguousarray(shrunk), self.quality, "RGB", "420", fastdct=False)


def _shrunk(pixels: np.ndarray, short: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if min(height, width) <= short:
        return pixels
    import cv2

    scale = short / min(height, width)
    size = (max(short, round(width * scale)), max(short, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
