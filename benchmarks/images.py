"""Images for the benchmarks: the JPEGs of a tar or folder that the caller names, or photographs-like ones made here."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

WNIDS = [f"n{10_000_000 + place:08d}" for place in range(10)]


def load_jpegs(source: str | None, count: int) -> list[bytes]:
    """`count` JPEGs, those of the source repeated as needed; without a source, noise of several scales at 500x375."""
    if source is None:
        found = [_made(seed) for seed in range(min(count, 50))]
    elif Path(source).is_dir():
        found = [
            path.read_bytes() for path in sorted(Path(source).rglob("*")) if path.suffix.lower() in (".jpeg", ".jpg")
        ]
    else:
        with tarfile.open(source) as archive:
            found = [archive.extractfile(member).read() for member in archive if member.isfile()]
    return [found[place % len(found)] for place in range(count)]


def _made(seed: int) -> bytes:
    from PIL import Image

    random = np.random.default_rng(seed)
    width, height = [(500, 375), (375, 500), (500, 333)][seed % 3]
    image = np.zeros((height, width, 3))
    for scale in (4, 16, 64, 250):
        rough = random.normal(0, scale**-0.3, (min(scale, height), min(scale, width), 3))
        layers = [
            Image.fromarray(rough[..., c].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        image += np.stack([np.asarray(layer) for layer in layers], axis=-1)
    pixels = np.clip(128 + 60 * image / image.std(), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write_train_tar(path: Path, jpegs: list[bytes], wnids: list[str] = WNIDS) -> None:
    """A tar of class tars, as ILSVRC2012_img_train.tar."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as outer:
        for place, wnid in enumerate(wnids):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as inner:
                for number, content in enumerate(jpegs[place :: len(wnids)]):
                    _add(inner, f"{wnid}_{number}.JPEG", content)
            _add(outer, f"{wnid}.tar", stream.getvalue())


def write_tree(folder: Path, jpegs: list[bytes], wnids: list[str] = WNIDS) -> None:
    """The same images as folder/WNID/NAME."""
    for place, wnid in enumerate(wnids):
        (folder / wnid).mkdir(parents=True)
        for number, content in enumerate(jpegs[place :: len(wnids)]):
            (folder / wnid / f"{wnid}_{number}.JPEG").write_bytes(content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def index(folder: Path, **sources: Path):
    """The training manifest of a train tar or tree; the images serve as validation images as well."""
    from repvgg_companion.data.index.source import SeekSource
    from repvgg_companion.data.index.splits import train_from_archive, train_from_folder
    from repvgg_companion.data.manifest import Manifest

    split = (
        train_from_archive(str(sources["train_archive"]), SeekSource)
        if "train_archive" in sources
        else train_from_folder(str(sources["train_folder"]))
    )
    manifest = split.builder.build(split.builder.classes, split.builder.classes)
    replace(manifest, stamps=split.stamps).write(folder / "m.parquet")
    return Manifest.read(folder / "m.parquet")
