"""Settings of the three measuring verbs: speed, kernel sizes (Table 1) and memory (Figure 3). No torch."""

from dataclasses import dataclass
from typing import ClassVar

from repvgg_companion.errors import CompanionError, nearest
from repvgg_companion.identity import FORMS
from repvgg_companion.models.names import require_model
from repvgg_companion.settings import Settings, setting

PROTOCOLS = ("interleaved", "paper")
"""`interleaved`: models in turn, round by round (ours). `paper`: 50 batches to warm up, 50 timed, one model after the
other, batch 128 in fp32 (section 4.1 of the paper)."""
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
MEMORY_FORMATS = ("contiguous", "channels_last")
RENAMED_FORMATS = {"nchw": "contiguous", "channels-last": "channels_last"}
"""The names of the memory formats in plans of earlier versions."""
BACKENDS = ("eager", "fused", "cuda-graph", "fused-cuda-graph", "compile", "winograd", "onnxruntime", "openvino")
ENGINES = ("onnxruntime", "openvino")
"""Backends that choose the memory format themselves; their inputs are contiguous."""
DEVICES = ("auto", "cpu", "cuda")
PAPER_BATCH_SIZE = 128
PAPER_BATCHES = 50
LEAST_ROUNDS = 20
FEW_SAMPLES = "few samples"
"""The flag of a row with fewer samples, from a programme that has not ended; it decides nothing."""


def _require_models(names: tuple[str, ...]) -> None:
    """Raise ValueError for a name that is not a model's, or comes twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"model {name} is named twice; name it once")
        try:
            require_model(name)
        except CompanionError as error:
            raise ValueError(str(error)) from None


class _WithFormats(Settings):
    """Settings with `memory_formats`; the old names of the formats get a sentence of their own."""

    memory_formats: tuple[str, ...]

    def __post_init__(self) -> None:
        """Name the new word for an old one, then check as usual."""
        named = self.memory_formats if isinstance(self.memory_formats, list | tuple) else ()
        for old, new in RENAMED_FORMATS.items():
            if old in named:
                raise ValueError(f"memory_formats names {old!r}; it is now called {new}")
        super().__post_init__()


@dataclass(frozen=True)
class SpeedSettings(_WithFormats):
    """Which networks are measured, under which conditions, and how."""

    title: ClassVar[str] = "speed"

    models: tuple[str, ...] = setting("models, each measured in all `forms` that it has", filled=True)
    forms: tuple[str, ...] = setting("forms of the models", ("train", "deploy"), choices=FORMS, filled=True)
    baselines: tuple[str, ...] = setting("networks to compare with", ("ResNet-18", "ResNet-50"))
    baseline_forms: tuple[str, ...] = setting(
        "forms of the baselines; deploy folds every batch norm, as in the paper",
        ("deploy",),
        choices=FORMS,
        filled=True,
    )
    anchor: str = setting("the model or baseline that is measured in every group", "ResNet-18")
    group_size: int = setting("networks measured in turn in one group, the anchor included", 4, low=2)
    rounds: int = setting("rounds of each group; each network gives one sample a round", 20, low=1)
    process_starts: int = setting(
        "how often everything runs in a new process; rounds times starts are the samples of a row", 1, low=1
    )
    protocols: tuple[str, ...] = setting(
        "interleaved (ours) or paper (section 4.1)", ("interleaved",), choices=PROTOCOLS, filled=True
    )
    precisions: tuple[str, ...] = setting("precisions", ("fp32",), choices=PRECISIONS, filled=True)
    memory_formats: tuple[str, ...] = setting(
        "memory formats; probe times both and takes the faster one",
        ("channels_last",),
        choices=(*MEMORY_FORMATS, "probe"),
        filled=True,
    )
    backends: tuple[str, ...] = setting("ways to run a network", ("eager",), choices=BACKENDS, filled=True)
    batch_sizes: tuple[int, ...] = setting("images a batch", (1,), low=1, filled=True)
    input_px: int | None = setting(
        "side of the input in pixels; without it each model's own (224, EfficientNet-B3 300, D2se 320)", None, low=1
    )
    width: float = setting("width multiplier of all networks", 1.0, above=0, high=4)
    num_classes: int = setting("outputs of a classifier", 1000, low=1)
    device: str = setting("device", "auto", choices=DEVICES)
    threads: int = setting("threads on a CPU; 0 means every core that the process may use", 0, low=0)
    memory_limit_mib: int = setting("peak memory of the process on a CPU in MiB; groups are cut by it", 4000, low=500)
    warm_up_seconds: float = setting("least warm-up in seconds; 0 means 1 on a GPU, none on a CPU", 0.0, low=0)
    drift_limit_pct: float = setting(
        "drift of a group's first network in percent that flags a row; 0 means 5", 0.0, low=0
    )
    spread_limit_pct: float = setting("(p90 - p10) / median in percent that flags a row; 0 means 20", 0.0, low=0)
    roofline: bool = setting("measure the device's ceilings in every group", True)
    seed: int = setting("seed of weights and of the order in the rounds", 0, low=0)

    def check(self) -> None:
        """Rules over several keys."""
        _require_models((*self.models, *self.baselines))
        if self.anchor not in (*self.baselines, *self.models):
            near = nearest(self.anchor, (*self.baselines, *self.models))
            hint = f"did you mean {near[0]}?" if near else "add it to one"
            raise ValueError(f"anchor {self.anchor} is neither among the baselines nor among the models; {hint}")
        if "probe" in self.memory_formats and len(self.memory_formats) > 1:
            raise ValueError("memory_formats names probe, which tries both, beside another; name probe alone")
        if self.rounds * self.process_starts < LEAST_ROUNDS:
            raise ValueError(
                f"{self.rounds} rounds in {self.process_starts} process starts give each row "
                f"{self.rounds * self.process_starts} samples; rounds times process_starts must be at least "
                f"{LEAST_ROUNDS}"
            )


@dataclass(frozen=True)
class KernelSettings(_WithFormats):
    """Table 1: one convolution per kernel size. The paper's shape is 32 images, 2048 channels, 56 px."""

    title: ClassVar[str] = "kernel_size"

    batch_size: int = setting("images a batch", 32, low=1)
    channels: int = setting("input and output channels", 2048, low=1)
    resolution_px: int = setting("side of the output in pixels", 56, low=1)
    rounds: int = setting("rounds; each kernel size gives one sample a round", LEAST_ROUNDS, low=LEAST_ROUNDS)
    precisions: tuple[str, ...] = setting(
        "precisions; without any fp32 on a CPU, and fp32, TF32 and bf16 on a GPU", (), choices=PRECISIONS
    )
    memory_formats: tuple[str, ...] = setting(
        "memory formats; without any contiguous on a CPU, and both on a GPU", (), choices=MEMORY_FORMATS
    )
    device: str = setting("device", "auto", choices=DEVICES)
    threads: int = setting("threads on a CPU; 0 means every core that the process may use", 0, low=0)

    def conditions(self, kind: str) -> list[tuple[str, str]]:
        """Pairs of precision and memory format; Winograd needs contiguous fp32, tensor cores prefer channels_last."""
        precisions = self.precisions or (("fp32", "tf32", "bf16") if kind == "cuda" else ("fp32",))
        formats = self.memory_formats or (MEMORY_FORMATS if kind == "cuda" else ("contiguous",))
        return [(precision, memory_format) for precision in precisions for memory_format in formats]


@dataclass(frozen=True)
class MemorySettings(Settings):
    """Figure 3 and whole models: memory of live feature maps."""

    title: ClassVar[str] = "memory"

    models: tuple[str, ...] = setting("models, each measured in all forms that it has", filled=True)
    batch_size: int = setting("images a batch", 1, low=1)
    input_px: int | None = setting("side of the input in pixels; without it each model's own", None, low=1)
    width: float = setting("width multiplier of all networks", 1.0, above=0, high=4)
    num_classes: int = setting("outputs of a classifier", 1000, low=1)
    device: str = setting("device", "auto", choices=DEVICES)

    def check(self) -> None:
        """Every name is a model's."""
        _require_models(self.models)
