"""The single convolutions of Table 1, measured in groups like networks."""

from repvgg_companion.speed.harness import LIMITS
from repvgg_companion.speed.networks import Convolution
from repvgg_companion.speed.programme import Condition, Method, SpeedGroup
from repvgg_companion.speed.speed_settings import KernelSettings

KERNEL_SIZES = (1, 3, 5, 7)


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
