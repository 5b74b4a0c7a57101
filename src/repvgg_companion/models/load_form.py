"""Build a network with the weights of a state dict, every tensor of it used."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.build import build_model


def load_form(  # noqa: PLR0913  # all by name but the first three
    identity: WeightsIdentity, form: str, state: Mapping[str, Tensor], *, dtype: torch.dtype, device: str, what: object
) -> nn.Module:
    """The network of `identity` in `form` and eval mode with the weights of `state`, every tensor of it used.

    Raises CompanionError naming `what` and the keys if tensors are missing, unknown or misshapen.
    """
    with torch.device("meta"):
        module = build_model(identity.model, num_classes=identity.num_classes, width=identity.width, form=form)
    require_state(module, state, what)
    converted = {key: tensor.to(device, dtype if tensor.is_floating_point() else None) for key, tensor in state.items()}
    module.load_state_dict(converted, strict=True, assign=True)
    return module.eval()


def parameter_count(module: nn.Module) -> int:
    """The number of values in all parameters; statistics of batch norms are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def require_state(module: nn.Module, state: Mapping[str, Tensor], what: object) -> None:
    """Raise CompanionError, naming keys, unless `state` has exactly the tensors of `module`, each of its shape."""
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        parts = [
            f"{len(keys)} {kind} tensors ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in (("missing", missing), ("unknown", unknown))
            if keys
        ]
        raise CompanionError(f"{what} does not fit the network: {' and '.join(parts)}; check model, width and form")
    for key, tensor in expected.items():
        if state[key].shape != tensor.shape:
            raise CompanionError(
                f"{what} does not fit the network: {key} has shape {list(state[key].shape)} instead of "
                f"{list(tensor.shape)}; check model, width and number of classes"
            )
