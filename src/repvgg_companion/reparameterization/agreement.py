"""Measure how far the two forms of a network differ, in their logits and in their files.

The train form runs through PyTorch's own batch norm, never through the code that folds it, so a mistake there shows.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repvgg_companion.reparameterization.convert import one_thread

# Check (a): float64 leaves about 1e-15 for equal functions; the smallest planted fault leaves more than 1e-6.
MAX_FLOAT64_RELATIVE_ERROR = 1e-10


@dataclass(frozen=True)
class Agreement:
    """Largest absolute difference of the logits over the largest absolute logit, and inputs of another class."""

    max_relative_error: float
    prediction_flips: int

    @property
    def is_one_function(self) -> bool:
        """Check (a), for logits in float64: whether both forms compute the same function."""
        return self.max_relative_error <= MAX_FLOAT64_RELATIVE_ERROR


def logits_of(module: nn.Module, images: Tensor, *, batch_size: int) -> Iterator[Tensor]:
    """Logits of float images [n, 3, px, px] in small batches, as [k, num_classes, ...] on the module's device."""
    parameter = next(module.parameters())
    for batch in images.split(batch_size):
        # Not around the yield: an unfinished generator would leave the whole process in this mode.
        with torch.inference_mode():
            logits = module(batch.to(parameter.device, parameter.dtype))
        yield logits


def compare(train: nn.Module, deploy: nn.Module, images: Tensor, *, batch_size: int = 8) -> Agreement:
    """Run both forms on the same float images [n, 3, px, px] and compare their logits.

    An input counts as flipped if its class differs (for segmentation: the class of any pixel). A logit that is not
    finite makes the error infinite.
    """
    difference, largest, flips = 0.0, 0.0, 0
    pairs = zip(
        logits_of(train, images, batch_size=batch_size), logits_of(deploy, images, batch_size=batch_size), strict=True
    )
    for expected, found in pairs:
        difference = max(difference, _largest(found - expected))
        largest = max(largest, _largest(expected))
        differs = expected.argmax(dim=1) != found.argmax(dim=1)
        flips += int(differs.flatten(1).any(dim=1).sum()) if differs.dim() > 1 else int(differs.sum())
    if not math.isfinite(difference) or not math.isfinite(largest):
        return Agreement(math.inf, flips)
    if largest == 0:
        return Agreement(0.0 if difference == 0 else math.inf, flips)
    return Agreement(difference / largest, flips)


def _largest(values: Tensor) -> float:
    # max() of a tensor with a NaN is NaN, but Python's max(0.0, nan) is 0.0: make it infinite here.
    return math.inf if not bool(torch.isfinite(values).all()) else float(values.abs().max())


@one_thread()
def same_bits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are missing on one side or differ in type, shape or any bit; empty if all are equal."""
    different = sorted(expected.keys() ^ found.keys())
    for key in sorted(expected.keys() & found.keys()):
        left, right = expected[key].cpu(), found[key].cpu()
        if left.dtype != right.dtype or left.shape != right.shape or not torch.equal(_bits(left), _bits(right)):
            different.append(key)
    return different


def _bits(tensor: Tensor) -> Tensor:
    views = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
    return tensor.contiguous().view(views[tensor.element_size()])
