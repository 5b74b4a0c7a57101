"""What a speed measurement covers: the `speed` part of an experiment goes in, checked settings come out. No torch.

It is a plain dataclass, so that a bare GPU machine needs no pydantic; the experiment model embeds it as a field.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import FORMS, split_model_name
from repvgg_companion.settings import read_mapping

PROTOCOLS = ("interleaved", "paper")
"""`interleaved`: models in turn, round by round (ours). `paper`: 50 batches to warm up, 50 timed, one model after the
other, batch 128 in fp32 (section 4.1 of the paper)."""
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
MEMORY_FORMATS = ("contiguous", "channels_last", "probe")
"""`probe` times both and takes the faster one; the row names the one that was taken."""
_RENAMED = {"nchw": "contiguous", "channels-last": "channels_last"}
BACKENDS = ("eager", "fused", "cuda-graph", "fused-cuda-graph", "compile", "winograd", "onnxruntime", "openvino")
ENGINES = ("onnxruntime", "openvino")
"""Backends that choose the memory format themselves; they take contiguous."""
UNSEEN_MEMORY = (*ENGINES, "winograd")
"""Backends that hold weights in a form of their own or outside torch's allocator; their peak memory stays empty."""
DEVICES = ("auto", "cpu", "cuda")
PAPER_BATCH_SIZE = 128
PAPER_BATCHES = 50
LEAST_ROUNDS = 20


@dataclass(frozen=True)
class SpeedSettings:
    """Which networks are measured, under which conditions, and how.

    `models` are measured in each of `forms`, `baselines` in each of `baseline_forms` (`deploy` means that every batch
    norm is folded, as in the paper). `anchor` is one of the baselines or models; it is measured in every group.
    """

    models: tuple[str, ...]
    forms: tuple[str, ...] = ("train", "deploy")
    baselines: tuple[str, ...] = ("ResNet-18", "ResNet-50")
    baseline_forms: tuple[str, ...] = ("deploy",)
    anchor: str = "ResNet-18"
    group_size: int = 4
    rounds: int = 20
    process_starts: int = 1
    """How often the whole programme runs in a process of its own; rounds times starts are the samples of a row."""
    protocols: tuple[str, ...] = ("interleaved",)
    precisions: tuple[str, ...] = ("fp32",)
    memory_formats: tuple[str, ...] = ("channels_last",)
    backends: tuple[str, ...] = ("eager",)
    batch_sizes: tuple[int, ...] = (1,)
    input_px: int | None = None
    """The same input size for all; without it each model's own (224, EfficientNet-B3 300, D2se 320)."""
    width: float = 1.0
    num_classes: int = 1000
    device: str = "auto"
    threads: int = 0
    """Threads on a CPU; 0 means every core that the process may use."""
    memory_limit_mib: int = 4000
    """Peak resident memory of the measuring process on a CPU; groups are cut so that they stay below it."""
    warm_up_seconds: float = 0.0
    """Least warm-up of each network; 0 means 1 s on a GPU, and on a CPU only until the times are stable."""
    drift_limit_pct: float = 0.0
    """The first network of a group, measured again last, may differ by so much; 0 means 2 on a GPU, 5 on a CPU."""
    spread_limit_pct: float = 0.0
    """(p90 - p10) / median above which a row is flagged; 0 means 5 on a GPU and 20 on a CPU."""
    roofline: bool = True
    seed: int = 0

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            annotation = field.type.__name__ if field.type in (int, float, bool, str) else str(field.type)
            _require_type(field.name, getattr(self, field.name), annotation)
        for key, known in (
            ("forms", FORMS),
            ("baseline_forms", FORMS),
            ("protocols", PROTOCOLS),
            ("precisions", PRECISIONS),
            ("memory_formats", MEMORY_FORMATS),
            ("backends", BACKENDS),
        ):
            _require_known(key, getattr(self, key), known)
        _require_known("device", (self.device,), DEVICES)
        _require_models(self.models, self.baselines)
        if self.anchor not in (*self.baselines, *self.models):
            raise ValueError(f"anchor {self.anchor} is neither among the baselines nor among the models; add it to one")
        if "probe" in self.memory_formats and len(self.memory_formats) > 1:
            raise ValueError("memory_formats names probe, which tries both, beside another; name probe alone")
        if not self.batch_sizes or len(set(self.batch_sizes)) != len(self.batch_sizes) or min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes is {list(self.batch_sizes)}; name each batch size once, all at least 1")
        for key, least in (
            ("group_size", 2),
            ("rounds", 1),
            ("process_starts", 1),
            ("num_classes", 1),
            ("threads", 0),
            ("memory_limit_mib", 500),
            ("warm_up_seconds", 0),
            ("drift_limit_pct", 0),
            ("spread_limit_pct", 0),
            ("seed", 0),
        ):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least {least}")
        if self.rounds * self.process_starts < LEAST_ROUNDS:
            raise ValueError(f"{self.rounds} rounds in {self.process_starts} process starts give each row "
                             f"{self.rounds * self.process_starts} samples; rounds times process_starts must be at "
                             f"least {LEAST_ROUNDS}")  # fmt: skip
        if self.input_px is not None and self.input_px < 1:
            raise ValueError(f"input_px is {self.input_px}; it must be at least 1")
        if not 0 < self.width <= 4:
            raise ValueError(f"width is {self.width}; it must be above 0 and at most 4")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], origin: str = "speed") -> "SpeedSettings":
        """Check a mapping; raises CompanionError that names `origin`, the key and what is known."""
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            known = ", ".join(field.name for field in fields(cls))
            raise CompanionError(f"{origin}: {unknown[0]} is no known key of the speed settings; known are {known}")
        if "models" not in values:
            raise CompanionError(f"{origin}: models is missing; name the models to measure")
        try:
            return cls(**values)
        except ValueError as error:
            raise CompanionError(f"{origin}: {error}") from None

    @classmethod
    def read(cls, plan: str) -> "SpeedSettings":
        """Read settings from JSON text, or from a JSON file where `plan` does not start with a brace."""
        return cls.from_mapping(read_plan(plan), "plan" if plan.lstrip().startswith("{") else plan)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))


def read_plan(plan: str) -> dict[str, Any]:
    """A plan given as JSON text, as a JSON file or as `FILE#KEY`; raises CompanionError if it is none of these."""
    return read_mapping(plan)[0]


def _require_type(key: str, value: Any, annotation: str) -> None:
    """Strict types without a library: a bool is no number, an int is a float."""
    kinds = {"int": int, "float": (int, float), "bool": bool, "str": str}
    if annotation.startswith("tuple"):
        item = kinds[annotation.split("[")[1].split(",")[0]]
        good = isinstance(value, tuple) and all(isinstance(x, item) and not isinstance(x, bool) for x in value)
    elif annotation == "int | None":
        good = value is None or (isinstance(value, int) and not isinstance(value, bool))
    else:
        good = isinstance(value, kinds[annotation]) and (annotation == "bool" or not isinstance(value, bool))
    if not good:
        raise ValueError(f"{key} is {value!r}, which is not of type {annotation}")


def _require_known(key: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not values:
        raise ValueError(f"{key} is empty; choose among {', '.join(known)}")
    for value in values:
        if value in _RENAMED:
            raise ValueError(f"{key} names {value!r}, which is now called {_RENAMED[value]}")
        if value not in known:
            raise ValueError(f"{key} names {value!r}; known are {', '.join(known)}")
    if len(set(values)) != len(values):
        raise ValueError(f"{key} names one of {', '.join(values)} twice; name it once")


def _require_models(models: tuple[str, ...], baselines: tuple[str, ...]) -> None:
    named = (*models, *baselines)
    if not models:
        raise ValueError("models is empty; name at least one model")
    for name in named:
        if named.count(name) > 1:
            raise ValueError(f"model {name} is named twice; name it once")
        try:
            split_model_name(name)
        except CompanionError as error:
            raise ValueError(str(error)) from None
