"""SGD with the paper's exemptions from weight decay.

The arithmetic is torch's own fused kernel (`torch.optim.sgd.sgd`). torch's optimizer class is not used: creating one
imports torch._dynamo, which takes longer than a demo epoch, and a checkpoint would have to take its state apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from torch.optim.sgd import sgd

from repvgg_companion.models.start import CLASSIFIERS
from repvgg_companion.training.recipe import Recipe

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
IDENTITY_BRANCH = "rbr_identity"
"""Name of the identity branch's batch norm in the official state dict."""


@dataclass
class ParameterGroup:
    """Parameters that share weight decay and rate; `momenta` has one buffer of the same shape and strides for each."""

    weight_decay: float
    rate_factor: float
    names: list[str] = field(default_factory=list)
    parameters: list[torch.Tensor] = field(default_factory=list)
    momenta: list[torch.Tensor] = field(default_factory=list)


def decays(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """Whether weight decay acts on a parameter of `module` that is called `name` in the whole network.

    Section 4.1 prints decay "on the kernels of conv and fully-connected layers". The authors' script exempts parameters
    named bias or bn, which is the same except for the weight of the identity branch's batch norm: it decays there, and
    so it does here. Vectors outside batch norms (DiracNet's a and b) are not kernels; exempting them is our choice.
    """
    if isinstance(module, _NORMS):
        return name.endswith(f"{IDENTITY_BRANCH}.weight")
    return parameter.ndim > 1 and not name.endswith("bias")


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[ParameterGroup]:
    """Cut the parameters into groups by decay and rate, in the order of `named_parameters`.

    The classifier learns at `head_learning_rate_factor` times the rate. Biases of every kind, those of batch norms
    included, learn at `bias_learning_rate_factor` times the rate (the
    authors' first script: 2).
    """
    groups: dict[tuple[float, float], ParameterGroup] = {}
    seen = set()
    for prefix, module in network.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{prefix}.{own_name}" if prefix else own_name
            key = (
                recipe.weight_decay if decays(name, parameter, module) else 0.0,
                (recipe.bias_learning_rate_factor if own_name == "bias" else 1.0)
                * (recipe.head_learning_rate_factor if name.startswith(CLASSIFIERS) else 1.0),
            )
            group = groups.setdefault(key, ParameterGroup(*key))
            group.names.append(name)
            group.parameters.append(parameter)
            group.momenta.append(torch.zeros_like(parameter, memory_format=torch.preserve_format))
    return list(groups.values())


class Sgd:
    """SGD over groups, with what `torch.amp.GradScaler` needs for fused steps.

    The scaler sets `grad_scale` and `found_inf`, tensors on the device; the kernel uses them without waiting for it.
    """

    _step_supports_amp_scaling = True

    def __init__(self, groups: list[ParameterGroup], recipe: Recipe) -> None:
        self.groups, self.recipe = groups, recipe
        self.param_groups = [{"params": group.parameters} for group in groups]

    def step(self, rate: float) -> None:
        """One update of all parameters from their gradients at learning rate `rate`."""
        with torch.no_grad():
            for group in self.groups:
                sgd(
                    group.parameters,
                    cast(list[torch.Tensor], [parameter.grad for parameter in group.parameters]),
                    cast(list[torch.Tensor | None], group.momenta),
                    fused=True,
                    grad_scale=getattr(self, "grad_scale", None),
                    found_inf=getattr(self, "found_inf", None),
                    weight_decay=group.weight_decay,
                    momentum=self.recipe.momentum,
                    lr=rate * group.rate_factor,
                    dampening=0.0,
                    nesterov=self.recipe.nesterov,
                    maximize=False,
                )

    def forget_gradients(self) -> None:
        """Drop all gradients, so that the next backward pass writes instead of adding."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    def momenta(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Name and momentum buffer of every parameter, for checkpoints."""
        for group in self.groups:
            yield from zip(group.names, group.momenta, strict=True)
