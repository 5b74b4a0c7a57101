"""Networks to measure: a name and a form go in, a network with cheap random weights in eval mode comes out.

Speed does not depend on the values of weights as long as no activation dies out, overflows or becomes denormal; so the
weights are drawn from one block of random numbers, scaled as Kaiming's, in a tenth of the time of `torch.nn.init`.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from repvgg_companion.machine.torch_device import DTYPES
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import require_model

_BLOCK = 1 << 20


@dataclass(frozen=True)
class ModelForm:
    """What is measured: a model in one form."""

    model: str
    form: str
    width: float = 1.0
    num_classes: int = 1000

    @property
    def name(self) -> str:
        """A short name for progress and samples."""
        return f"{self.model} {self.form}"

    @property
    def classes(self) -> int:
        """The number of outputs: that of the data, or of the segmentation head where the model is one."""
        spec = require_model(self.model)
        return spec.num_classes if spec.family == "PSPNet" else self.num_classes

    def input_px(self, override: int | None) -> int:
        """The side of the input: `override`, or the model's own."""
        return override or require_model(self.model).input_px

    def on_meta(self) -> nn.Module:
        """The network without storage, for counting."""
        with torch.device("meta"):
            return build_model(self.model, num_classes=self.classes, width=self.width, form=self.form).eval()

    def params(self) -> int:
        """Parameters, counted by walking the built module."""
        return _params(self)

    def build(self, *, device: str = "cpu", seed: int = 0) -> nn.Module:
        """The network with random weights on `device`, in eval mode, without gradients.

        Raises CompanionError where the network has no such form.
        """
        module = self.on_meta().to_empty(device=device).requires_grad_(False)
        fill(module, seed=seed)
        return module


@cache
def _params(network: ModelForm) -> int:
    return sum(parameter.numel() for parameter in network.on_meta().parameters())


def forms_of(model: str, forms: tuple[str, ...]) -> list[str]:
    """Those of `forms` that the model has, the train form first."""
    return [form for form in ("train", "deploy") if form in forms and (form == "train" or has_deploy(model))]


def has_deploy(model: str) -> bool:
    """Whether the network can be converted or folded."""
    return require_model(model).convertible


def fill(module: nn.Module, *, seed: int = 0) -> None:
    """Fill every parameter and buffer of `module` in place, so that activations keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    device = next(module.parameters()).device
    block = torch.randn(_BLOCK, generator=generator).to(device)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                tensor.zero_()
            elif tensor.dim() >= 2:
                _tile(tensor, block, (2 / tensor[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                # Not zero: an engine would leave the addition out.
                _tile(tensor, block, 0.1)
            else:
                # Batch norm: scale 1, mean 0, variance 1.
                tensor.fill_(1.0 if name.endswith(("weight", "running_var", "alpha")) else 0.0)
        for parent in module.modules():
            if type(parent).__name__ == "SqueezeExcitation":
                # A weight of sigmoid(0) = 0.5 in each of D2se's 48 layers would leave denormal numbers.
                [conv for conv in parent.modules() if isinstance(conv, nn.Conv2d)][-1].bias.fill_(6.0)
            branches = [child for name, child in parent.named_children() if name.startswith("rbr_")]
            for branch in branches if len(branches) > 1 else ():
                # The sum of n branches of equal variance would grow by the root of n in each layer.
                for norm in branch.modules():
                    if isinstance(norm, nn.BatchNorm2d):
                        norm.weight.fill_(len(branches) ** -0.5)


def _tile(tensor: torch.Tensor, block: torch.Tensor, scale: float) -> None:
    flat = tensor.view(-1)
    for start in range(0, flat.numel(), _BLOCK):
        part = flat[start : start + _BLOCK]
        torch.mul(block[: part.numel()], scale, out=part)


def random_inputs(
    count: int, batch_size: int, input_px: int, *, precision: str, memory_format: str, device: str, seed: int = 0
) -> list[torch.Tensor]:
    """`count` random batches [batch_size, 3, px, px]; random, because zeros draw less power and run faster."""
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    inputs = []
    for _ in range(count):
        images = torch.randn(batch_size, 3, input_px, input_px, generator=generator)
        inputs.append(images.to(device=device, dtype=DTYPES[precision], memory_format=layout))
    return inputs


def buffers_for(batch_size: int) -> int:
    """How many input buffers rotate: several for small batches, which would otherwise sit in a cache."""
    return 8 if batch_size <= 8 else 4 if batch_size <= 32 else 2


def prepare(module: nn.Module, *, precision: str, memory_format: str) -> nn.Module:
    """Bring a network to the precision and memory format of a condition, in place."""
    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    return module.to(dtype=DTYPES[precision]).to(memory_format=layout)
