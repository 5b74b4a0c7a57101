"""The single convolutions of Table 1, measured in groups like networks."""

from dataclasses import dataclass

from torch import nn

from repvgg_companion.speed.harness import LIMITS
from repvgg_companion.speed.networks import fill
from repvgg_companion.speed.programme import Condition, Method, SpeedGroup
from repvgg_companion.speed.speed_settings import KernelSettings

KERNEL_SIZES = (1, 3, 5, 7)


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias whose output has `resolution_px` a side, whatever its stride."""

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
    def form(self) -> str:
        """Nothing is left to fold."""
        return "deploy"

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


def convolution_groups(settings: KernelSettings, kind: str) -> list[SpeedGroup]:
    """One group for each precision and memory format: all kernel sizes, and a 3x3 convolution of stride 2.

    In channels_last a GPU computes no convolution by Winograd's algorithm, so the one of stride 2 would show nothing;
    there cuDNN's search for its algorithm takes minutes (seen on an H100 in bf16).
    """
    shape = (settings.channels, settings.resolution_px)
    sizes, strided = tuple(Convolution(size, 1, *shape) for size in KERNEL_SIZES), Convolution(3, 2, *shape)
    return [
        SpeedGroup(
            f"{precision} {memory_format}",
            Condition("interleaved", precision, memory_format, "eager", settings.batch_size),
            sizes if (kind, memory_format) == ("cuda", "channels_last") else (*sizes, strided),
        )
        for precision, memory_format in settings.conditions(kind)
    ]


def convolution_method(settings: KernelSettings, kind: str, threads: int) -> Method:
    """How the convolutions are measured on a device of `kind`."""
    return Method(kind, threads, settings.rounds, LIMITS[kind])


def macs(settings: KernelSettings, size: int) -> int:
    """Multiply-adds of one convolution: batch x in x out x H x W x k^2 (Table 1 of the paper counts them so)."""
    return settings.batch_size * settings.channels**2 * settings.resolution_px**2 * size**2
