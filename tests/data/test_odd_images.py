"""Images as they occur in ImageNet and worse ones: decoded as Pillow decodes them, or reported with their place."""

import io
import struct
import warnings
import zlib

import data_layouts
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from repvgg_companion.data.batches.evaluation_input import decode_evaluation_image, evaluation_batches
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.data.decode import (
    UndecodableImage,
    UndecodableImages,
    decode_pillow,
    decode_simplejpeg,
    decode_torchvision,
    jpeg_components,
)
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.errors import CompanionError


def _rgb(width: int = 310, height: int = 290) -> Image.Image:
    random = np.random.default_rng(1)
    return Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )


def _saved(image: Image.Image, fmt: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def _inverted_cmyk() -> bytes:
    """Photoshop's kind, as in ImageNet: with an Adobe marker, which says that the inks are inverted."""
    return _saved(_rgb().convert("CMYK"), "JPEG", quality=90)


def _corrupt_exif() -> bytes:
    plain = _saved(_rgb(), "JPEG", quality=90)
    block = b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xee" * 50
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]


def _rotated_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(_rgb(), "JPEG", quality=90, exif=exif)


def _png_16_bit_rgb() -> bytes:
    """Pillow cannot write this kind, so it is put together here."""
    width, height = 260, 270
    pixels = np.random.default_rng(2).integers(0, 2**16, (height, width, 3), dtype=np.uint16).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _palette_with_transparency() -> bytes:
    image = _rgb().quantize(16)
    return _saved(image, "PNG", transparency=bytes([0, 128] + [255] * 14))


ODD = {
    "plain": _saved(_rgb(), "JPEG", quality=90),
    "progressive": _saved(_rgb(), "JPEG", quality=80, progressive=True),
    "no-subsampling": _saved(_rgb(), "JPEG", quality=90, subsampling=0),
    "odd-size": _saved(_rgb(301, 257), "JPEG", quality=90, subsampling=2),
    "greyscale": _saved(_rgb().convert("L"), "JPEG", quality=90),
    "cmyk": _inverted_cmyk(),
    "corrupt-exif": _corrupt_exif(),
    "rotated-exif": _rotated_exif(),
    "trailing-garbage": _saved(_rgb(), "JPEG", quality=90) + b"\0" * 700,
    "png": _saved(_rgb(), "PNG"),
    "png-palette": _saved(_rgb().quantize(32), "PNG"),
    "png-palette-transparent": _palette_with_transparency(),
    "png-alpha": _saved(_rgb().convert("RGBA"), "PNG"),
    "png-16-bit-grey": _saved(
        Image.fromarray(np.random.default_rng(4).integers(0, 2**16, (256, 300), dtype=np.uint16)), "PNG"
    ),
    "png-16-bit-rgb": _png_16_bit_rgb(),
    "png-one-bit": _saved(_rgb().convert("1"), "PNG"),
    "gif": _saved(_rgb(), "GIF"),
    "webp": _saved(_rgb(), "WEBP", quality=80),
    "bmp": _saved(_rgb(), "BMP"),
    "tiny": _saved(_rgb(1, 1), "JPEG"),
    "narrow": _saved(_rgb(900, 3), "JPEG", quality=90),
}
BROKEN = {
    "truncated": ODD["plain"][: len(ODD["plain"]) // 2],
    "truncated-png": ODD["png"][: len(ODD["png"]) // 2],
    "header-only": ODD["plain"][:20],
    "empty": b"",
    "text": b"this is no image",
    "zeros": bytes(5000),
}
EXACT = EvaluationProtocol(256, 224)
FAST = EvaluationProtocol(256, 224, decoder="torchvision")
V1 = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])


def _peer(data: bytes) -> torch.Tensor:
    """torchvision's ImageFolder with its default loader and the usual transforms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return V1(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", ODD)
def test_the_exact_mode_is_pillow_bit_for_bit(name):
    ours = decode_evaluation_image(ODD[name], EXACT).permute(2, 0, 1)
    assert torch.equal(ours, _peer(ODD[name]))


@pytest.mark.parametrize("name", ODD)
def test_the_fast_mode_is_off_by_at_most_one_level(name):
    ours = decode_evaluation_image(ODD[name], FAST).permute(2, 0, 1)
    assert (ours.int() - _peer(ODD[name]).int()).abs().max() <= 1


@pytest.mark.parametrize("size", [(255, 300), (254, 652), (1763, 2), (500, 375), (256, 400)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_fast_mode_is_off_by_at_most_one_level_on_hard_edges_too(size, interpolation):
    pixels = np.random.default_rng(7).integers(0, 2, (size[1], size[0], 1), dtype=np.uint8) * 255
    data = _saved(Image.fromarray(pixels.repeat(3, axis=2)), "JPEG", quality=95)
    exact = decode_evaluation_image(data, EvaluationProtocol(256, 224, interpolation))
    fast = decode_evaluation_image(data, EvaluationProtocol(256, 224, interpolation, decoder="torchvision"))
    assert (fast.int() - exact.int()).abs().max() <= 1


@pytest.mark.parametrize("name", ODD)
def test_every_decoder_gives_rgb_of_the_same_size(name):
    pillow = np.asarray(decode_pillow(ODD[name]))
    assert pillow.ndim == 3 and pillow.shape[2] == 3 and pillow.dtype == np.uint8
    assert decode_torchvision(ODD[name]).shape == (3, *pillow.shape[:2])
    difference = np.abs(decode_simplejpeg(ODD[name]).astype(int) - pillow)
    assert difference.max() <= 1


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("decode", [decode_pillow, decode_torchvision, decode_simplejpeg])
def test_every_decoder_refuses_the_same_broken_images(name, decode):
    with pytest.raises(UndecodableImage):
        decode(BROKEN[name])


def test_every_truncation_gets_one_verdict_from_all_decoders():
    """Otherwise the fast path would train on an image that the exact path reports."""
    data = ODD["progressive"]
    for cut in range(2, len(data), max(1, len(data) // 60)):
        verdicts = set()
        for decode in (decode_pillow, decode_torchvision, decode_simplejpeg):
            try:
                decode(data[:cut])
                verdicts.add("decoded")
            except UndecodableImage:
                verdicts.add("refused")
        assert len(verdicts) == 1, (cut, verdicts)


def test_components_are_read_from_the_header():
    assert [jpeg_components(ODD[name]) for name in ("plain", "progressive", "greyscale", "cmyk", "png")] == [
        3,
        3,
        1,
        4,
        None,
    ]
    assert jpeg_components(b"\xff\xd8\xff") is None and jpeg_components(b"\xff\xd8" + b"\xff" * 40) is None


@pytest.fixture
def with_a_broken_image(tmp_path, images, index):
    """Manifests of archives in which one training and one validation image are truncated; and where they lie."""
    train = {wnid: dict(members) for wnid, members in images.train.items()}
    train["n02119789"]["n02119789_10.JPEG"] = train["n02119789"]["n02119789_10.JPEG"][:400]
    name = "ILSVRC2012_val_00000005.JPEG"
    wnid, content = images.val[name]
    broken = data_layouts.Images(train, {**images.val, name: (wnid, content[:400])})
    paths = data_layouts.write_archives(tmp_path / "archives", broken)
    folder = index("--train-archive", paths["train"], "--val-archive", paths["val"], "--devkit", paths["devkit"])
    return Manifest.read(folder / "train.parquet"), Manifest.read(folder / "val.parquet")


PROTOCOL = EvaluationProtocol(24, 16)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augmentation", ["crop-flip", "shift"])
def test_an_undecodable_training_image_stops_the_run_and_is_named(with_a_broken_image, workers, augmentation):
    manifest = with_a_broken_image[0]
    stopping = TrainingInput(
        manifest, input_px=16, augmentation=augmentation, decoder="pillow", seed=0, workers=workers
    )
    with pytest.raises(CompanionError) as caught:
        list(stopping.batches(0, batch_size=4))
    place = list(manifest.names).index("n02119789_10.JPEG")
    sentence = str(caught.value)
    assert manifest.files[place] in sentence and "n02119789_10.JPEG" in sentence
    assert f"byte {manifest.offsets[place]}" in sentence and "data.undecodable" in sentence and "\n" not in sentence


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augmentation", ["crop-flip", "shift"])
def test_or_it_is_counted_listed_and_replaced(with_a_broken_image, workers, augmentation):
    manifest = with_a_broken_image[0]
    place = list(manifest.names).index("n02119789_10.JPEG")
    counting = TrainingInput(
        manifest, input_px=16, augmentation=augmentation, decoder="pillow", seed=0, workers=workers, undecodable="count"
    )
    for epoch in range(2):
        batches = list(counting.batches(epoch, batch_size=12))
        assert batches[0][0].shape == (12, 3, 16, 16)
        assert sorted(batches[0][1].tolist()) == sorted(manifest.labels.tolist()), "its neighbour has the same label"
    (found,) = counting.undecodable.found.values()
    assert found.index == place and "n02119789_10.JPEG" in found.where and found.reason


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_an_undecodable_validation_image_stops_or_is_counted(with_a_broken_image, workers, decoder):
    manifest = with_a_broken_image[1]
    protocol = EvaluationProtocol(24, 16, decoder=decoder)
    with pytest.raises(CompanionError, match=r"val_00000005.JPEG at byte \d+ cannot be decoded"):
        list(evaluation_batches(manifest, protocol, batch_size=4, workers=workers))
    log = UndecodableImages("count")
    batches = list(evaluation_batches(manifest, protocol, batch_size=4, workers=workers, undecodable=log))
    assert sum(len(labels) for _, labels in batches) == 9
    (place,) = log.found
    assert manifest.names[place] == "ILSVRC2012_val_00000005.JPEG"
    assert (torch.cat([images for images, _ in batches])[place] == 128).all()


def test_an_unknown_policy_is_one_sentence():
    with pytest.raises(CompanionError, match="must be one of stop, count"):
        UndecodableImages("skip")
