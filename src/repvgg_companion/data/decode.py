"""Image bytes to RGB pixels, the odd ones too: CMYK, greyscale, palette or 16-bit PNG named .JPEG, corrupt EXIF.

What cannot be decoded raises `UndecodableImage`; `UndecodableImages` decides by policy whether that stops the run or is
counted and listed.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repvgg_companion.data.manifest import Manifest
from repvgg_companion.errors import CompanionError, one_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

POLICIES = ("stop", "count")


class UndecodableImage(Exception):
    """The bytes are not an image that Pillow can decode; the message says why."""


class Undecodable(NamedTuple):
    """An undecodable image in the list: its index in the manifest, where it lies, and why it failed."""

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    where: str
    reason: str


@dataclass
class UndecodableImages:
    """The policy and the list: `stop` raises at the first, `count` lists each image once."""

    policy: str = "stop"
    found: dict[int, Undecodable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise CompanionError(f"undecodable is {self.policy!r}; it must be one of {', '.join(POLICIES)}")

    def __len__(self) -> int:
        return len(self.found)

    def report(self, manifest: Manifest, index: int, reason: str) -> None:
        """Raise CompanionError naming archive, image and offset, or add the image to the list."""
        where = manifest.where(index)
        if self.policy == "stop":
            raise CompanionError(
                f"{where} cannot be decoded ({reason}); index an intact copy, or set data.undecodable to count"
            )
        self.found[index] = Undecodable(index, where, reason)


def decode_pillow(data: bytes) -> "Image.Image":
    """The image in mode RGB exactly as torchvision's `pil_loader` gives it. Raises UndecodableImage."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Corrupt EXIF and palette transparency are warnings of Pillow; the pixels are right anyway.
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data)).convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UndecodableImage("no image format that Pillow reads") from None
    except Exception as error:
        # Pillow's readers raise a different error for each kind of damage.
        raise UndecodableImage(one_line(f"{type(error).__name__}: {error}")) from None


def decode_torchvision(data: bytes) -> "torch.Tensor":
    """The image as uint8 [3, height, width], by torchvision's JPEG decoder where that agrees with Pillow.

    CMYK JPEGs, other formats and all that torchvision refuses go to Pillow. Raises UndecodableImage.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if jpeg_components(data) in (1, 3):
        try:
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError:
            pass
    return pixels_of(decode_pillow(data))


def decode_simplejpeg(data: bytes) -> np.ndarray:
    """The image as uint8 [height, width, 3], by simplejpeg for ordinary JPEGs, else Pillow. Raises UndecodableImage."""
    import simplejpeg

    if jpeg_components(data) in (1, 3):
        try:
            return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        except ValueError:
            pass
    return np.array(decode_pillow(data))


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "torchvision": decode_torchvision,
    "pillow": decode_pillow,
    "opencv": decode_simplejpeg,
}
"""How bytes become the image that the crop of the same name takes. Each raises UndecodableImage."""


def jpeg_components(data: bytes) -> int | None:
    """The number of colour components in a JPEG's frame header, or None if the bytes are not a JPEG with one."""
    if data[:2] != b"\xff\xd8":
        return None
    at, size = 2, len(data)
    while at + 9 < size:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 9]
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def pixels_of(image: Any) -> "torch.Tensor":
    """A Pillow image in mode RGB as uint8 [3, height, width]; its memory holds the channels last."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
