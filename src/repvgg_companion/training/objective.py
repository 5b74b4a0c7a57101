"""The loss that a step minimises, and the number of right answers, of one micro-batch.

Classification has the paper's cross-entropy (section 4.1). Segmentation has PSPNet's: cross-entropy over the labelled
pixels of the final head, and with a smaller weight of the auxiliary head.
"""

import torch
from torch import Tensor, nn

from repvgg_companion.data.cityscapes import IGNORED
from repvgg_companion.training.recipe import Recipe


def classification(logits: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of logits [n, classes] and the number of right answers, both scalars.

    `targets` are classes [n], or shares of classes [n, classes] after mixup; the largest share is then the answer.
    """
    loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
    answers = targets if targets.ndim == 1 else targets.argmax(1)
    return loss, (logits.argmax(1) == answers).sum()


def segmentation(outputs: tuple[Tensor, Tensor], targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the labelled pixels of both heads, and the sum over images of the share of right pixels.

    `outputs` are the final and the auxiliary logits [n, classes, h, w], `targets` classes [n, h, w] with 255 for pixels
    that do not count. An image without a labelled pixel has share 0; a batch without one has loss 0.
    """
    final, auxiliary = outputs
    targets = targets.long()
    valid = targets != IGNORED
    count = valid.sum().clamp(min=1)

    def mean_loss(logits: Tensor) -> Tensor:
        total = nn.functional.cross_entropy(
            logits.float(), targets, ignore_index=IGNORED, label_smoothing=recipe.label_smoothing, reduction="sum"
        )
        return total / count

    with torch.no_grad():
        right = (final.argmax(1) == targets).flatten(1).sum(1)
        shares = right / valid.flatten(1).sum(1).clamp(min=1)
    return mean_loss(final) + recipe.auxiliary_weight * mean_loss(auxiliary), shares.double().sum()
