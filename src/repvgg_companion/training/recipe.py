"""A recipe: every setting of a training that decides its weights. JSON or keywords go in, a checked value comes out.

Needs neither torch nor pydantic: the experiment model embeds this dataclass, and the `train` verb reads it from JSON.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import canonical_json

PAPER_BATCH_NORM_BATCH_SIZE = 32
"""Images that each batch norm of the paper saw: a global batch of 256 on 8 GPUs (section 4.1)."""

PACKED_PATTERN = r"short[1-9]\d*-q[1-9]\d?|short[1-9]\d*-q100"

Augmentation = Literal["crop-flip", "crop-flip-autoaugment", "shift", "none", "scale-crop-flip"]
Schedule = Literal["cosine", "poly"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]

_DEFAULTS_ADDED_LATER: dict[str, Any] = {"schedule": "cosine", "poly_power": 0.9, "auxiliary_weight": 0.4}
"""Fields that came after the first release, with the value that keeps the behaviour of before.

`settings()` leaves such a field out while it holds that value, so that an upgrade orphans no trained weights.
"""


@dataclass(frozen=True)
class Recipe:
    """Settings of one training; all of them are part of the training digest.

    Attributes:
        epochs: passes over the training images.
        global_batch_size: images per optimizer step, over all processes.
        batch_norm_batch_size: images that each batch norm sees (the paper: 32 per GPU); the global batch is cut into
            micro-batches of this size, whatever the number of processes.
        learning_rate: peak of the schedule; it falls to 0 step by step, along a half cosine or as `schedule` says.
        warmup_epochs: epochs at the start over which the rate rises linearly; they count among `epochs`.
        bias_learning_rate_factor: factor on the rate of everything named bias (the official script: 2).
        momentum, nesterov, weight_decay: of SGD; which parameters decay stands in `training.optimizer`.
        label_smoothing: epsilon of the cross-entropy.
        mixup_alpha: parameter of the Beta distribution of mixup, 0 for none.
        ema_decay: decay of an exponential moving average of the weights, 0 for none; with one, the average is what is
            validated and published.
        augmentation: crop-flip is the paper's 120-epoch input; shift (pad and shift, no flip) is for digits;
            scale-crop-flip (scale 0.5 to 2) is for segmentation.
        input_px: side of the training images.
        validation: label of the evaluation protocol of the validation after each epoch.
        decoder: torchvision (fast), pillow (exact), or opencv (fastest on a packed copy).
        packed: label of the re-encoded, smaller copy that the images come from, such as short256-q90; empty for the
            images themselves. The name of such a recipe says `packed`, so that every row resting on it does.
        precision: auto takes bf16 where the hardware has it, else fp16 with a scaler on a GPU and fp32 on a CPU.
        memory_format: auto measures both at the first start.
        threads: CPU threads of one process; 0 leaves the number to torch. Decided once, at the first start.
        compile: torch.compile of the network.
        deterministic: deterministic algorithms on a GPU; a CPU is deterministic in any case.
        schedule: cosine, or poly (Table 8): the rate times (1 - share of the steps done) to the power `poly_power`.
        poly_power: of the schedule poly; the paper's 0.9.
        auxiliary_weight: of the loss of PSPNet's auxiliary head (its authors' 0.4); other networks have none.
    """

    epochs: int
    global_batch_size: int = 256
    batch_norm_batch_size: int = PAPER_BATCH_NORM_BATCH_SIZE
    learning_rate: float = 0.1
    warmup_epochs: float = 0.0
    bias_learning_rate_factor: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    ema_decay: float = 0.0
    augmentation: Augmentation = "crop-flip"
    input_px: int = 224
    validation: str = "resize256-crop224-bilinear-torchvision"
    decoder: Literal["torchvision", "pillow", "opencv"] = "torchvision"
    packed: str = ""
    precision: Precision = "auto"
    memory_format: MemoryFormat = "auto"
    threads: int = 0
    compile: bool = False
    deterministic: bool = False
    schedule: Schedule = "cosine"
    poly_power: float = 0.9
    auxiliary_weight: float = 0.4

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Raise ValueError with one sentence where a setting makes no sense (pydantic and `from_json` pass it on)."""
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"{name} is {value:g}, outside {low:g} to {high:g}")
        if self.batch_norm_batch_size > self.global_batch_size or self.global_batch_size % self.batch_norm_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is no multiple of batch_norm_batch_size "
                f"{self.batch_norm_batch_size}; change one of them"
            )
        if self.learning_rate <= 0:
            raise ValueError("learning_rate is 0, so nothing would be learned; set a positive one")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of the {self.epochs} epochs")
        if self.packed and not re.fullmatch(PACKED_PATTERN, self.packed):
            raise ValueError(
                f"packed is {self.packed!r} instead of short side and JPEG quality of a packed copy, as in short256-q90"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from a mapping; raises CompanionError with one sentence on an unknown, missing or bad key."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(settings) - set(known)):
            raise CompanionError(f"recipe: {unknown[0]} is no known setting; known are {', '.join(known)}")
        if "epochs" not in settings:
            raise CompanionError("recipe: epochs is missing; add it")
        values = {
            name: float(value) if known[name].type is float and type(value) is int else value
            for name, value in settings.items()
        }
        try:
            return cls(**values)
        except ValueError as error:
            raise CompanionError(f"recipe: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read the JSON of `to_json` or of a rule's params; raises CompanionError where it is none."""
        try:
            settings = json.loads(text)
        except ValueError as error:
            raise CompanionError(f"recipe: {text!r} is no JSON ({error})") from None
        if not isinstance(settings, dict):
            raise CompanionError(f"recipe: {text!r} is no JSON object of settings")
        return cls.from_settings(settings)

    def settings(self) -> dict[str, Any]:
        """All settings, without fields of later versions that hold their behaviour-preserving default."""
        values = dataclasses.asdict(self)
        return {
            name: value
            for name, value in values.items()
            if name not in _DEFAULTS_ADDED_LATER or value != _DEFAULTS_ADDED_LATER[name]
        }

    def to_json(self) -> str:
        """The settings as one line of JSON with sorted keys."""
        return canonical_json(self.settings())

    @property
    def micro_batches(self) -> int:
        """Micro-batches per optimizer step, over all processes."""
        return self.global_batch_size // self.batch_norm_batch_size

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """What differs between stored settings and this recipe, as `name stored -> now`, sorted."""
        now = json.loads(self.to_json())
        names = sorted(set(now) | set(stored))
        return [f"{name} {stored.get(name)} -> {now.get(name)}" for name in names if stored.get(name) != now.get(name)]


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("epochs", 1, 100_000),
    ("global_batch_size", 1, 1 << 20),
    ("batch_norm_batch_size", 1, 1 << 20),
    ("learning_rate", 0, 1000),
    ("warmup_epochs", 0, 100_000),
    ("bias_learning_rate_factor", 0, 1000),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, 1),
    ("label_smoothing", 0, 0.9999),
    ("mixup_alpha", 0, 100),
    ("ema_decay", 0, 0.999999),
    ("input_px", 8, 4096),
    ("threads", 0, 1024),
    ("poly_power", 0.01, 10),
    ("auxiliary_weight", 0, 10),
)


def _check_type(field: dataclasses.Field, value: Any) -> None:
    if field.type in (int, float):
        wanted: tuple[type, ...] = (int,) if field.type is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            what = "a whole number" if field.type is int else "a number"
            hint = "; write 1.0e-4 with a dot in YAML" if isinstance(value, str) and _looks_numeric(value) else ""
            raise ValueError(f"{field.name} is {value!r} instead of {what}{hint}")
    elif field.type is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{field.name} is {value!r} instead of true or false")
    elif not isinstance(value, str):
        raise ValueError(f"{field.name} is {value!r} instead of a text")
    elif (choices := getattr(field.type, "__args__", ())) and value not in choices:
        raise ValueError(f"{field.name} is {value!r}; choose one of {', '.join(choices)}")


def _looks_numeric(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", text) is not None
