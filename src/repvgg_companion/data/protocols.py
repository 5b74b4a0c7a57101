"""Evaluation protocols and their labels; imports no torch.

`resize256-crop224-bilinear-pillow` classifies one crop of an image (`EvaluationProtocol`). `slide713-pillow` segments
an image of any size in windows (`SlidingProtocol`).
"""

import itertools
import re
from dataclasses import dataclass

from repvgg_companion.errors import CompanionError, nearest

INTERPOLATIONS = ("bilinear", "bicubic")
EVALUATION_DECODERS = ("pillow", "torchvision")
LABEL = re.compile(r"(?:resize(\d+)-)?crop(\d+)-([a-z]+)-([a-z]+)")
SLIDING = re.compile(r"slide(\d+)-pillow")


@dataclass(frozen=True)
class EvaluationProtocol:
    """Resize the short side to `resize_px` (None: not at all), crop the central `crop_px` square; sizes in pixels."""

    resize_px: int | None
    crop_px: int
    interpolation: str = "bilinear"
    decoder: str = "pillow"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS or self.decoder not in EVALUATION_DECODERS:
            ends = [f"-{'-'.join(pair)}" for pair in itertools.product(INTERPOLATIONS, EVALUATION_DECODERS)]
            end = f"-{self.interpolation}-{self.decoder}"
            near = nearest(end, ends)
            hint = f"; did you mean {self.label.removesuffix(end)}{near[0]}?" if near else ""
            raise CompanionError(
                f"protocol {self.label!r}: the interpolation must be one of {', '.join(INTERPOLATIONS)}, "
                f"the decoder one of {', '.join(EVALUATION_DECODERS)}{hint}"
            )
        if self.crop_px < 1 or (self.resize_px is not None and self.resize_px < 1):
            raise CompanionError(f"protocol {self.label!r}: sizes are at least 1 pixel")
        if self.resize_px is not None and self.crop_px > self.resize_px:
            raise CompanionError(
                f"protocol {self.label!r} would crop {self.crop_px} pixels from a side of {self.resize_px} and pad "
                "images with black; resize to at least the size of the crop"
            )

    @property
    def label(self) -> str:
        """The protocol as one word, such as `resize256-crop224-bilinear-pillow`."""
        resize = "" if self.resize_px is None else f"resize{self.resize_px}-"
        return f"{resize}crop{self.crop_px}-{self.interpolation}-{self.decoder}"

    @classmethod
    def parse(cls, label: str) -> "EvaluationProtocol":
        """The protocol of a label; raises CompanionError if there is no such protocol."""
        match = LABEL.fullmatch(label)
        if match is None:
            raise CompanionError(
                f"{label!r} is not an evaluation protocol; write it like resize256-crop224-bilinear-pillow, "
                "or like crop32-bilinear-pillow where nothing is resized"
            )
        resize, crop, interpolation, decoder = match.groups()
        return cls(None if resize is None else int(resize), int(crop), interpolation, decoder)


@dataclass(frozen=True)
class SlidingProtocol:
    """Square windows of `window_px` pixels over the whole image, two thirds of a window apart.

    Where windows overlap their class probabilities are averaged, as in the public PSPNet code; no flip, one scale.
    """

    window_px: int

    def __post_init__(self) -> None:
        if self.window_px < 1:
            raise CompanionError(f"protocol {self.label!r}: sizes are at least 1 pixel")

    @property
    def label(self) -> str:
        """The protocol as one word, such as `slide713-pillow`."""
        return f"slide{self.window_px}-pillow"

    @property
    def crop_px(self) -> int:
        """The side of what the network sees at once."""
        return self.window_px

    def starts(self, length: int) -> list[int]:
        """Where the windows along a side of `length` pixels begin; a side no longer than a window has one window."""
        if length <= self.window_px:
            return [0]
        step = -(-2 * self.window_px // 3)
        count = -(-(length - self.window_px) // step) + 1
        return [min(number * step, length - self.window_px) for number in range(count)]


Protocol = EvaluationProtocol | SlidingProtocol


def parse_protocol(label: str) -> Protocol:
    """The protocol of a label; raises CompanionError if there is no such protocol."""
    match = SLIDING.fullmatch(label)
    return SlidingProtocol(int(match[1])) if match else EvaluationProtocol.parse(label)
