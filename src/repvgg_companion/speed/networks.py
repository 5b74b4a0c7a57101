"""Networks to measure, with cheap random weights, and their random inputs.

Speed does not depend on the weights as long as no activation vanishes, overflows or becomes denormal. So the weights
are copied from one block of random numbers, scaled like Kaiming's, in a tenth of the time of `torch.nn.init`.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import nn

from repvgg_companion.machine.torch_device import DTYPES, LAYOUTS
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import require_model

_BLOCK = 1 << 20


@dataclass(frozen=True)
class ModelForm:
    """A model in one form, with the width and the number of classes."""

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

    def input_shape(self, px: int) -> tuple[int, int, int]:
        """Channels, height and width of one image of side `px`."""
        return (3, px, px)

    def buffers(self, batch_size: int) -> int:
        """How many batches are used in turn: several small ones, because one alone would stay in a cache."""
        return 8 if batch_size <= 8 else 4 if batch_size <= 32 else 2

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

        Raises CompanionError if the network has no such form.
        """
        module = self.on_meta().to_empty(device=device).requires_grad_(False)
        fill(module, seed=seed)
        return module


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias whose output has `resolution_px` a side, whatever its stride."""

    form: ClassVar[str] = "deploy"
    kernel_size: int
    stride: int
    channels: int
    resolution_px: int

    @property
    def model(self) -> str:
        """The name in the samples."""
        strided = f"-stride-{self.stride}" if self.stride > 1 else ""
        return f"Conv-{self.kernel_size}x{self.kernel_size}{strided}"

    @property
    def name(self) -> str:
        """The name of the subject."""
        return f"{self.model} {self.form}"

    def input_px(self, override: int | None) -> int:
        """The side of the output, which the samples name."""
        return override or self.resolution_px

    def input_shape(self, px: int) -> tuple[int, int, int]:
        """Channels, height and width of the input for outputs of side `px`."""
        return (self.channels, px * self.stride, px * self.stride)

    def buffers(self, batch_size: int) -> int:
        """One; a batch of the paper's shape takes 0.8 GB in fp32."""
        return min(batch_size, 1)

    def build(self, *, device: str = "cpu", seed: int = 0) -> nn.Module:
        """The convolution with random weights."""
        size = self.kernel_size
        module = nn.Conv2d(self.channels, self.channels, size, self.stride, size // 2, bias=False, device=device)
        fill(module.eval().requires_grad_(False), seed=seed)
        return module


Measurable = ModelForm | Convolution
"""What a group can measure."""


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
                # Not zero, or an engine would leave the addition out.
                _tile(tensor, block, 0.1)
            else:
                # Batch norm: scale 1, mean 0, variance 1.
                tensor.fill_(1.0 if name.endswith(("weight", "running_var", "alpha")) else 0.0)
        for parent in module.modules():
            if type(parent).__name__ == "SqueezeExcitation":
                # A weight of sigmoid(0) = 0.5 in each of D2se's 48 layers would leave denormal numbers.
                last = [conv for conv in parent.modules() if isinstance(conv, nn.Conv2d)][-1]
                nn.init.constant_(last.bias, 6.0)  # type: ignore[arg-type]  # it has one
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


@dataclass(frozen=True)
class Inputs:
    """The random batches that a network is run on: `shape` is [channels, height, width] of one image."""

    batch_size: int
    shape: tuple[int, int, int]
    precision: str
    memory_format: str
    kind: str

    def draw(self, count: int, seed: int = 0) -> list[torch.Tensor]:
        """`count` random batches drawn on the device; random, because zeros draw less power and run faster."""
        generator = torch.Generator(self.kind).manual_seed(seed)
        size, dtype, layout = (self.batch_size, *self.shape), DTYPES[self.precision], LAYOUTS[self.memory_format]
        return [
            torch.randn(size, generator=generator, device=self.kind, dtype=dtype).contiguous(memory_format=layout)
            for _ in range(count)
        ]


def prepare(module: nn.Module, *, precision: str, memory_format: str) -> nn.Module:
    """Bring a network to the precision and memory format of a condition, in place."""
    module = module.to(dtype=DTYPES[precision])
    return module.to(memory_format=LAYOUTS[memory_format])  # type: ignore[call-overload]  # missing in torch's types
