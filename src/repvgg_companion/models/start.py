"""Start a training from trained weights: a network by those of its own kind, a PSPNet by those of its backbone."""

from collections.abc import Mapping

from torch import Tensor, nn

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.names import require_model, require_start

CLASSIFIERS = ("linear.", "fc.")
"""Key prefixes of the last layer, which a network with other classes learns from scratch."""


def start_from(
    network: nn.Module, name: str, state: Mapping[str, Tensor], identity: WeightsIdentity, path: object
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


def freeze(network: nn.Module, stages: int) -> None:
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
