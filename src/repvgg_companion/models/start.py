"""Start a training from trained weights: a network by those of its own kind, a PSPNet by those of its backbone.

Needs no torch to be imported: a run checks the weights to start from before its first job.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.names import ModelSpec, require_model, stage_widths

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSIFIERS = ("linear.", "fc.")
"""Key prefixes of the last layer, which a network with other classes learns from scratch."""


def require_start(name: str, identity: WeightsIdentity, path: object, width: float | None = None) -> None:
    """Raise CompanionError unless a training of network `name` can start from weights with this identity.

    `width` is the width factor of the training; None leaves the widths unchecked.
    """
    backbone = require_model(name).backbone
    if (identity.model, identity.form) != (backbone or name, "train"):
        whose = f"the backbone of {name} is the train form of {backbone}" if backbone else f"this training is of {name}"
        raise CompanionError(
            f"{path} holds the {identity.form} form of {identity.model}, but {whose}; name a train file of that network"
        )
    if width is not None and not _same_channels(require_model(identity.model), identity.width, width):
        raise CompanionError(
            f"{path} has width {identity.width:g}, but this training is of {name} at width {width:g}; use one width "
            "for both"
        )


def _same_channels(spec: ModelSpec, one: float, other: float) -> bool:
    """Whether two width factors give the same network; channels are rounded, so unequal factors can."""
    if spec.family == "RepVGG":
        return stage_widths(spec.a, spec.b, one) == stage_widths(spec.a, spec.b, other)
    return one == other


def start_from(
    network: "nn.Module", name: str, state: "Mapping[str, Tensor]", identity: WeightsIdentity, path: object
) -> None:
    """Load weights into a network (fine-tuning) or into the backbone of a PSPNet (section 4.3).

    `state` and `identity` are from a train file of the same network or backbone and width. The classifier is loaded if
    it has the same number of classes; otherwise it keeps its random weights. Dilation and stride of a PSPNet's backbone
    change no shape. Raises CompanionError naming `path` if the file holds something else.
    """
    backbone = require_model(name).backbone
    require_start(name, identity, path)
    part = network.get_submodule("backbone") if backbone else network
    own = part.state_dict()
    given = dict(state)
    for key in (key for key in state if key.startswith(CLASSIFIERS)):
        if key not in own or own[key].shape != state[key].shape:
            del given[key]
    learned_anew = {key for key in own if key.startswith(CLASSIFIERS) and key not in given}
    wrong = sorted(own.keys() - learned_anew ^ given.keys())
    wrong = wrong or [key for key in given if own[key].shape != given[key].shape]
    if wrong:
        what = f"the backbone of {name}" if backbone else name
        raise CompanionError(
            f"{path} does not fit {what} ({wrong[0]} differs); its width is {identity.width:g}, use one width for both"
        )
    part.load_state_dict(own | given)


def freeze(network: "nn.Module", stages: int) -> None:
    """Keep the first `stages` stages of a RepVGG as they are: no gradients, no new statistics of batch norms.

    Raises CompanionError for a network without such stages.
    """
    for number in range(stages):
        stage = getattr(network, f"stage{number}", None)
        if stage is None:
            raise CompanionError(
                f"{type(network).__name__} has no stage {number + 1} to freeze; set frozen_stages to 0"
            )
        stage.requires_grad_(False).eval()
