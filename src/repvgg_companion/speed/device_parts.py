"""The parts of the programme that measures a whole device, in order of importance. No torch.

Each part has a time limit of its own, so that no part uses up the time of all others. The order on a GPU follows what
is missing most: speeds in bf16 first, then the comparison with timm, training, the paper's tables, and torch.compile
last.
"""

from dataclasses import dataclass, replace

from repvgg_companion.speed.speed_settings import KernelSettings, MemorySettings, SpeedSettings

VARIANTS = (
    *("RepVGG-B1", "RepVGG-A0", "RepVGG-B3", "RepVGG-A2", "RepVGG-B0", "RepVGG-B2", "RepVGG-A1", "RepVGG-B1g4"),
    *("RepVGG-B1g2", "RepVGG-B2g4", "RepVGG-B2g2", "RepVGG-B3g4", "RepVGG-B3g2", "RepVGG-D2se"),
)
"""The fourteen variants, most important first."""
RESNETS = ("ResNet-50", "ResNet-18", "ResNet-34", "ResNet-101")
BASELINES = (
    *RESNETS,
    *("ResNet-152", "ResNeXt-50", "ResNeXt-101", "VGG-16", "EfficientNet-B0", "EfficientNet-B3"),
    *("RegNetX-3.2GF", "RegNetX-12GF"),
)
"""The networks of Table 4 that RepVGG is compared with."""
BRANCHES = ("RepVGG-B0", "RepVGG-B0_plain", "RepVGG-B0_identity-only", "RepVGG-B0_1x1-only")
"""The networks of Table 6."""
SEGMENTATION = tuple(f"PSPNet-{name}" for name in ("RepVGG-B1g2_fast", "RepVGG-B1g2", "RepVGG-B2_fast", "RepVGG-B2"))
"""The networks of Table 8; its baselines are the two below."""
SEGMENTATION_BASELINES = ("PSPNet-ResNet-50", "PSPNet-ResNet-101")
EMULATED = ("RepVGG-A0", "ResNet-18")
"""On a CPU without bf16 instructions only these show how slow its emulation is."""


@dataclass(frozen=True)
class PeerSettings:
    """A comparison with timm in the same rounds: of inference, or of training steps (`training`)."""

    models: tuple[str, ...]
    batch_size: int
    precision: str = "bf16"
    training: bool = False
    input_px: int = 224


@dataclass(frozen=True)
class DigitsSettings:
    """A training on the digits that is stopped by SIGTERM, continued, converted and evaluated."""

    model: str = "RepVGG-A0"
    width: float = 0.25
    epochs: int = 8


Work = SpeedSettings | KernelSettings | MemorySettings | PeerSettings | DigitsSettings


@dataclass(frozen=True)
class DevicePart:
    """One part of the programme; `starts` counts the process starts that its speeds are pooled over."""

    name: str
    minutes: float
    """Its own limit in the first pass; what is left is measured after all parts had their first pass."""
    work: Work
    starts: int = 1
    group_seconds: float = 0.0
    """The rounds of one group end after this, but not before `LEAST` rounds; 0 for all rounds."""
    apart: bool = False
    """Whether it runs in a process of its own, which is ended at the part's limit."""


LEAST = 2
"""A first pass on a CPU measures at least this many rounds of each group; later passes add more."""


def parts_of(kind: str, *, full: bool = False) -> list[DevicePart]:
    """The programme of a device of `kind`, `cpu` or `cuda`; `full` appends the matrix that takes hours."""
    parts = gpu_parts() if kind == "cuda" else cpu_parts()
    more = (full_gpu_parts() if kind == "cuda" else full_cpu_parts()) if full else []
    return [*parts, *more]


def gpu_parts() -> list[DevicePart]:
    """The programme of a GPU: up to the digits about 8.5 minutes on an H100, all of it about 20.

    Large groups, since each holds the anchor and both ceilings.
    """
    bf16 = SpeedSettings(
        models=VARIANTS,
        forms=("deploy",),
        baselines=RESNETS,
        anchor="ResNet-50",
        device="cuda",
        memory_limit_mib=70_000,
        precisions=("bf16",),
        batch_sizes=(128,),
        backends=("eager", "cuda-graph", "fused-cuda-graph"),
        memory_formats=("channels_last",),
        group_size=8,
    )
    two = replace(bf16, models=("RepVGG-A0", "RepVGG-B1"), baselines=("ResNet-50",))
    # In train form no convolution is followed by ReLU alone, so there is nothing to fuse.
    train = replace(bf16, forms=("train",), baselines=("ResNet-50",), backends=("eager", "cuda-graph"))
    paper = replace(bf16, protocols=("paper",), backends=("eager",), memory_formats=("contiguous",))
    table1 = KernelSettings(precisions=("bf16", "tf32"), memory_formats=("channels_last",), device="cuda")
    table4 = replace(paper, baselines=BASELINES)
    compiled = replace(two, baselines=(), anchor="RepVGG-B1", backends=("compile",))
    beside_resnet = replace(compiled, models=("RepVGG-B1",), baselines=("ResNet-50",))
    table6 = replace(paper, models=BRANCHES, baselines=("ResNet-50",))
    return [
        DevicePart("check", 1.0, replace(two, backends=("fused-cuda-graph",))),
        DevicePart("bf16", 3.5, bf16, starts=3),
        DevicePart("bf16-train", 2.0, train, starts=3),
        DevicePart("peers", 1.2, PeerSettings(("RepVGG-A0", "RepVGG-B1", "RepVGG-B3"), 128)),
        DevicePart("training-steps", 1.0, PeerSettings(("RepVGG-A0", "RepVGG-B1", "RepVGG-B1g4"), 128, training=True)),
        DevicePart("table6", 1.0, replace(table6, forms=("train", "deploy"), precisions=("fp32",))),
        DevicePart("table1", 1.5, table1),
        DevicePart(
            "memory", 0.5, _memory(("RepVGG-B1", "RepVGG-A0", "RepVGG-B3", "ResNet-50", "ResNet-18"), 128, "cuda")
        ),
        DevicePart("digits", 1.5, DigitsSettings()),
        DevicePart("table4-tf32", 2.0, replace(table4, precisions=("tf32",))),
        DevicePart("table4-fp32", 4.5, replace(table4, precisions=("fp32",))),
        # The last one alone, since torch 2.11 searches for minutes for the 1x1 convolutions of ResNet-50.
        DevicePart("compiled", 1.5, compiled, apart=True),
        DevicePart("compiled-resnet", 3.0, beside_resnet, apart=True),
    ]


def full_gpu_parts() -> list[DevicePart]:
    """What takes hours on a GPU: every network in every precision, batch size, backend and memory format."""
    matrix = SpeedSettings(
        models=VARIANTS,
        baselines=BASELINES,
        baseline_forms=("train", "deploy"),
        anchor="ResNet-50",
        device="cuda",
        memory_limit_mib=70_000,
        precisions=("bf16", "tf32", "fp32", "fp16"),
        batch_sizes=(128, 32, 8, 1),
        backends=("eager", "cuda-graph", "fused-cuda-graph", "compile"),
        memory_formats=("contiguous", "channels_last"),
    )
    table8 = replace(
        matrix,
        models=SEGMENTATION,
        forms=("deploy",),
        baselines=SEGMENTATION_BASELINES,
        baseline_forms=("deploy",),
        anchor="PSPNet-ResNet-50",
        precisions=("fp32", "tf32"),
        batch_sizes=(16,),
        backends=("eager",),
        memory_formats=("contiguous",),
    )
    return [
        DevicePart("table1-fp32", 10, KernelSettings(precisions=("fp32",), device="cuda")),
        DevicePart("memory-all", 10, _memory((*VARIANTS, *BASELINES), 128, "cuda")),
        DevicePart("table8", 30, table8, starts=3),
        DevicePart("matrix", 24 * 60, matrix, starts=3),
    ]


def cpu_parts() -> list[DevicePart]:
    """The programme of a CPU: in 8 minutes on two cores rows of all networks, then more rounds of each."""
    settings = SpeedSettings(
        models=VARIANTS,
        forms=("deploy",),
        baselines=RESNETS,
        anchor="ResNet-18",
        device="cpu",
        precisions=("fp32", "bf16"),
        backends=("eager", "fused", "openvino"),
        group_size=7,
    )
    trained = replace(settings, forms=("train", "deploy"), baselines=("ResNet-18",), precisions=("fp32",))
    few = ("RepVGG-A0", "RepVGG-B1")
    return [
        DevicePart("batch-1", 4.0, replace(settings, batch_sizes=(1,)), starts=4, group_seconds=1.0),
        DevicePart("batch-8", 6.0, replace(settings, batch_sizes=(8,)), starts=8, group_seconds=1.0),
        DevicePart("table1", 1.0, KernelSettings(4, 256, 56, device="cpu")),
        DevicePart("memory", 1.0, _memory((*few, "ResNet-18", "ResNet-50"), 1, "cpu")),
        DevicePart("peers", 1.0, PeerSettings(few, 1, precision="fp32")),
        DevicePart("branches", 3.0, replace(trained, backends=("eager",)), starts=4, group_seconds=2.0),
    ]


def full_cpu_parts() -> list[DevicePart]:
    """What takes hours on a CPU: all networks of Tables 4 and 6, all backends, Table 1 in both formats, Table 8."""
    networks = SpeedSettings(
        models=(*VARIANTS, *BRANCHES[1:]),
        baselines=BASELINES,
        device="cpu",
        precisions=("fp32", "bf16"),
        backends=("eager", "fused"),
    )
    backends = replace(
        networks,
        models=("RepVGG-A0", "RepVGG-B1"),
        forms=("deploy",),
        baselines=("ResNet-50", "ResNet-18"),
        anchor="ResNet-50",
        backends=("eager", "fused", "compile", "winograd", "onnxruntime", "openvino"),
        batch_sizes=(8,),
    )
    table8 = replace(
        networks,
        models=SEGMENTATION,
        forms=("deploy",),
        baselines=SEGMENTATION_BASELINES,
        anchor="PSPNet-ResNet-50",
        precisions=("fp32",),
        backends=("fused",),
        input_px=257,  # 713 in the paper, which a CPU cannot hold in reasonable time
    )
    both = ("contiguous", "channels_last")
    table1 = KernelSettings(4, 256, 56, precisions=("fp32", "bf16"), memory_formats=both, device="cpu")
    return [
        DevicePart("networks", 24 * 60, networks, starts=3),
        DevicePart("backends", 6 * 60, backends, starts=3),
        DevicePart("table1-formats", 10, table1),
        DevicePart("memory-all", 60, _memory((*VARIANTS, *BASELINES[:8]), 1, "cpu")),
        DevicePart("table8", 6 * 60, table8, starts=3),
    ]


def _memory(models: tuple[str, ...], batch_size: int, device: str) -> MemorySettings:
    return MemorySettings(models=models, batch_size=batch_size, device=device)
