"""What segmentation needs beside the network: windows over a whole image, counts per class, an ImageNet backbone.

In: a PSPNet with images or weights. Out: probabilities per pixel, intersections and unions, the network started from
its backbone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from repvgg_companion.data.cityscapes import IGNORED
from repvgg_companion.data.protocols import SlidingProtocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.names import require_model

_HEADS = ("linear.", "fc.")


def slide(network: nn.Module, images: Tensor, protocol: SlidingProtocol) -> Tensor:
    """Class probabilities [n, classes, h, w] (float32) of float images [n, 3, h, w], averaged where windows overlap.

    `network` is in eval mode. An image smaller than a window is one window of its own size.
    """
    height, width = images.shape[2:]
    px = protocol.window_px
    total, seen = None, torch.zeros((height, width), device=images.device)
    for top in protocol.starts(height):
        for left in protocol.starts(width):
            rows, columns = slice(top, min(top + px, height)), slice(left, min(left + px, width))
            answers = network(images[:, :, rows, columns]).float().softmax(1)
            if total is None:
                total = answers.new_zeros((*answers.shape[:2], height, width))
            total[:, :, rows, columns] += answers
            seen[rows, columns] += 1
    return total / seen


def class_counts(answers: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [3, classes]: pixels where both agree on a class, pixels answered so, pixels labelled so.

    `answers` and `labels` hold classes, of the same shape; pixels labelled 255 count nowhere. The IoU of a class is
    agreed / (answered + labelled - agreed).
    """
    valid = labels != IGNORED
    answers, labels = answers[valid].long(), labels[valid].long()
    agreed = labels[answers == labels]
    return torch.stack([torch.bincount(part, minlength=num_classes) for part in (agreed, answers, labels)])


def start_from_backbone(
    network: nn.Module, name: str, state: Mapping[str, Tensor], identity: WeightsIdentity, path: object
) -> None:
    """Give the backbone of the PSPNet `name` the weights of a classification network (section 4.3), its head left out.

    `state` and `identity` are those of a train file of the same backbone and width. Dilation and stride change no
    tensor's shape. Raises CompanionError naming `path` where the file holds something else.
    """
    backbone = require_model(name).backbone
    if (identity.model, identity.form) != (backbone, "train"):
        raise CompanionError(
            f"{path} holds the {identity.form} form of {identity.model}, but the backbone of {name} is the train form "
            f"of {backbone}; name its train.safetensors"
        )
    own = network.backbone.state_dict()
    given = {key: tensor for key, tensor in state.items() if not key.startswith(_HEADS)}
    wrong = sorted(own.keys() ^ given.keys()) or [key for key in own if own[key].shape != given[key].shape]
    if wrong:
        raise CompanionError(
            f"{path} does not fit the backbone of {name} ({wrong[0]} differs); its width is {identity.width:g}, train "
            "both at one width"
        )
    network.backbone.load_state_dict(given)
