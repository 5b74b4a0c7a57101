"""The label of an evaluation protocol in, the protocol out: a crop of an image, or windows over all of it. No torch.

`resize256-crop224-bilinear-pillow` classifies a crop (`EvaluationProtocol`); `slide713-pillow` segments an image of any
size by windows (`SlidingProtocol`).
"""

import re
from dataclasses import dataclass

from repvgg_companion.data.evaluation_input import EvaluationProtocol
from repvgg_companion.errors import CompanionError

SLIDING = re.compile(r"slide(\d+)-pillow")


@dataclass(frozen=True)
class SlidingProtocol:
    """Square windows of `window_px` pixels over the whole image, each two thirds of a window after the one before.

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
        """Where the windows along a side of `length` pixels begin; one window where it is not longer than that."""
        if length <= self.window_px:
            return [0]
        step = -(-2 * self.window_px // 3)
        count = -(-(length - self.window_px) // step) + 1
        return [min(number * step, length - self.window_px) for number in range(count)]


Protocol = EvaluationProtocol | SlidingProtocol


def parse_protocol(label: str) -> Protocol:
    """The protocol of a label; raises CompanionError where it is none."""
    match = SLIDING.fullmatch(label)
    return SlidingProtocol(int(match[1])) if match else EvaluationProtocol.parse(label)
