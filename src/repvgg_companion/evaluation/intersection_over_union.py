"""Mean IoU as Cityscapes defines it: intersections and unions are summed over all images, the mean is over classes.

Counts are pixels in the order of `predictions.COUNTS`: agreed, answered, labelled.
"""

import numpy as np


def mean_iou_pct(counts: np.ndarray) -> np.ndarray:
    """Mean IoU in percent of counts [..., 3, classes], over the classes that occur.

    A class that is neither labelled nor answered anywhere has no IoU and is left out.
    """
    agreed, answered, labelled = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = answered + labelled - agreed
    iou = np.divide(agreed, union, out=np.full(union.shape, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, axis=-1)


def pixel_accuracy_pct(counts: np.ndarray) -> float:
    """Share of the labelled pixels that are right, in percent, of counts [3, classes]."""
    return 100 * float(counts[0].sum() / counts[2].sum())


def resampled_mean_iou(per_image: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mean IoU in percent for each of `draws` [r, n] (how often each image is taken); counts are [n, 3, classes]."""
    n, rows, classes = per_image.shape
    totals = draws.astype(np.float64) @ per_image.reshape(n, rows * classes)
    return mean_iou_pct(totals.reshape(-1, rows, classes))


def image_draws(n: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each of n images is taken in each of `resamples` bootstrap samples, int64 [resamples, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
