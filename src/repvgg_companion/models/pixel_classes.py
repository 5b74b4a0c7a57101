"""Class probabilities for every pixel of a whole image, and counts of right pixels per class."""

import torch
from torch import Tensor, nn

from repvgg_companion.data.cityscapes import IGNORED
from repvgg_companion.data.protocols import SlidingProtocol


def slide(network: nn.Module, images: Tensor, protocol: SlidingProtocol) -> Tensor:
    """Class probabilities [n, classes, h, w] (float32) of float images [n, 3, h, w], averaged where windows overlap.

    `network` is in eval mode. An image smaller than a window is one window of its own size.
    """
    height, width = images.shape[2:]
    px = protocol.window_px
    total: Tensor | None = None
    seen = torch.zeros((height, width), device=images.device)
    for top in protocol.starts(height):
        for left in protocol.starts(width):
            rows, columns = slice(top, min(top + px, height)), slice(left, min(left + px, width))
            answers = network(images[:, :, rows, columns]).float().softmax(1)
            if total is None:
                total = answers.new_zeros((*answers.shape[:2], height, width))
            total[:, :, rows, columns] += answers
            seen[rows, columns] += 1
    assert total is not None  # an image has at least one window
    return total / seen


def class_counts(answers: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [3, classes]: pixels of each class answered and labelled as it, answered as it, labelled as it.

    `answers` and `labels` hold classes, of the same shape; pixels labelled 255 count nowhere. The IoU of a class is
    agreed / (answered + labelled - agreed).
    """
    valid = labels != IGNORED
    answers, labels = answers[valid].long(), labels[valid].long()
    agreed = labels[answers == labels]
    return torch.stack([torch.bincount(part, minlength=num_classes) for part in (agreed, answers, labels)])
