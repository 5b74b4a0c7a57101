"""Run a network over batches of images and collect its predictions; nothing here reads or writes a file."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from repvgg_companion.errors import CompanionError
from repvgg_companion.evaluation.predictions import Predictions

if TYPE_CHECKING:
    import torch

TOP = 5


def predict(
    module: "torch.nn.Module",
    batches: "Iterable[tuple[torch.Tensor, torch.Tensor]]",
    *,
    device: str,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Run a network over uint8 batches [n, 3, px, px] with labels [n], in eval mode and float32 without TF32.

    `progress` is called with the number of images that are done. Raises CompanionError if a logit is not finite,
    because such a network has no accuracy.
    """
    import torch

    from repvgg_companion.data.batches.normalize import normalize

    module = module.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    all_labels, all_top, all_margins = [], [], []
    with torch.inference_mode(), exact_float32():
        for images, labels in batches:
            logits = module(normalize(images, device=device, channels_last=True))
            require_finite(logits)
            values, top = logits.topk(min(TOP, logits.shape[1]), dim=1)
            all_top.append(top.cpu().numpy())
            all_margins.append((values[:, 0] - values[:, 1]).cpu().numpy())
            all_labels.append(labels.numpy())
            if progress is not None:
                progress(len(labels))
    if not all_labels:
        raise CompanionError("there are no images to evaluate on; index a validation set that has some")
    return Predictions(np.concatenate(all_labels), np.concatenate(all_top), np.concatenate(all_margins))


def require_finite(logits: "torch.Tensor") -> None:
    """Raise CompanionError if an output of the network is not finite."""
    import torch

    if not torch.isfinite(logits).all():
        raise CompanionError("the network gives logits that are not finite; evaluate other weights")


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Plain float32 convolutions: with TF32, predictions would change from one GPU generation to the next."""
    import torch

    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


def accuracy_columns(predictions: Predictions) -> dict[str, Any]:
    """What the predictions give for a row of `accuracy.csv`: images, top-1 with its Wilson interval, top-5."""
    total = len(predictions.labels)
    low, high = wilson_interval_pct(predictions.top1_correct, total)
    return {
        "n_images": total,
        "top1_pct": 100 * predictions.top1_correct / total,
        "top1_low_pct": low,
        "top1_high_pct": high,
        "top5_pct": 100 * predictions.top5_correct / total,
    }


def wilson_interval_pct(correct: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of `correct` out of `total`, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)
