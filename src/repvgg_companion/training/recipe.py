"""A recipe: all settings of a training that affect its weights. Needs neither torch nor pydantic."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from repvgg_companion.data.protocols import parse_protocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import canonical_json
from repvgg_companion.settings import Settings, setting

PAPER_BATCH_NORM_BATCH_SIZE = 32
"""Images that each batch norm of the paper saw: a global batch of 256 on 8 GPUs (section 4.1)."""
LONGEST = 100_000
LARGEST_BATCH = 1 << 20

_PACKED = r"short[1-9]\d*-q([1-9]\d?|100)"
_DEFAULTS_ADDED_LATER: dict[str, Any] = {
    "schedule": "cosine",
    "poly_power": 0.9,
    "auxiliary_weight": 0.4,
    "head_learning_rate_factor": 1.0,
    "frozen_stages": 0,
    "validate_every": 1,
}
"""Fields that came after the first release, with the value that keeps the earlier behaviour.

`settings()` leaves such a field out while it holds that value, so an upgrade does not change the digest of weights that
were trained before it.
"""


@dataclass(frozen=True)
class Recipe(Settings):
    """Settings of one training; all of them are part of the training digest."""

    title: ClassVar[str] = "recipe"

    epochs: int = setting("Passes over the training images.", low=1, high=LONGEST)
    global_batch_size: int = setting(
        "Images per optimizer step, over all processes. The images of an epoch that fill no whole batch are left out; "
        "the next epoch has another order.",
        256,
        low=1,
        high=LARGEST_BATCH,
    )
    batch_norm_batch_size: int = setting(
        "Images that each batch norm sees (the paper: 32 per GPU). The global batch is cut into micro-batches of this "
        "size, for any number of processes.",
        PAPER_BATCH_NORM_BATCH_SIZE,
        low=1,
        high=LARGEST_BATCH,
    )
    learning_rate: float = setting(
        "Highest learning rate. It falls to 0 step by step, along half a cosine or as `schedule` says.",
        0.1,
        low=0,
        high=1000,
    )
    warmup_epochs: float = setting(
        "Epochs at the start over which the rate rises linearly; they count among `epochs`.", 0.0, low=0, high=LONGEST
    )
    bias_learning_rate_factor: float = setting(
        "Factor on the learning rate of all biases (the official script: 2).", 1.0, low=0, high=1000
    )
    momentum: float = setting("Momentum of SGD.", 0.9, low=0, high=0.9999)
    nesterov: bool = setting("Whether SGD uses Nesterov momentum.", False)
    weight_decay: float = setting(
        "Weight decay of SGD; training/optimizer.py says which parameters decay.", 1e-4, low=0, high=1
    )
    label_smoothing: float = setting("Epsilon of the cross-entropy.", 0.0, low=0, high=0.9999)
    mixup_alpha: float = setting("Parameter of the Beta distribution of mixup; 0 for none.", 0.0, low=0, high=100)
    ema_decay: float = setting(
        "Decay of an exponential moving average of the weights; 0 for none. If set, the average is validated and "
        "published.",
        0.0,
        low=0,
        high=0.999999,
    )
    augmentation: Literal["crop-flip", "crop-flip-autoaugment", "shift", "shift-flip", "none", "scale-crop-flip"] = (
        setting(
            "crop-flip is the paper's for 120 epochs; shift (pad and shift, no flip) is for digits, shift-flip for "
            "photographs of 32 px; scale-crop-flip (scale 0.5 to 2) is for segmentation.",
            "crop-flip",
        )
    )
    input_px: int = setting("Side of the training images in pixels.", 224, low=8, high=4096)
    validation: str = setting(
        "Label of the evaluation protocol of the validation after each epoch.", "resize256-crop224-bilinear-torchvision"
    )
    decoder: Literal["torchvision", "pillow", "opencv"] = setting(
        "torchvision is fast, pillow exact, opencv the fastest on a packed copy.", "torchvision"
    )
    packed: str = setting(
        "Label of the re-encoded, smaller copy that the images are read from, such as short256-q90; empty for the "
        "original images. The name of such a recipe contains `packed`.",
        "",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto takes bf16 if the hardware has it, else fp16 with a scaler on a GPU and fp32 on a CPU.", "auto"
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = setting(
        "auto measures both at the first start; another first start may choose the other, which rounds differently.",
        "auto",
    )
    threads: int = setting(
        "CPU threads of one process; 0 takes torch's number at the first start.", 0, low=0, high=1024
    )
    compile: bool = setting("Whether the network is compiled by torch.compile.", False)
    deterministic: bool = setting(
        "Whether a GPU uses deterministic algorithms, which a bit-exact resume needs; a CPU always does.",
        False,
    )
    schedule: Literal["cosine", "poly"] = setting(
        "cosine, or poly (Table 8): the rate times (1 - share of the steps done) to the power `poly_power`.", "cosine"
    )
    poly_power: float = setting("Power of the schedule poly (the paper: 0.9).", 0.9, low=0.01, high=10)
    auxiliary_weight: float = setting(
        "Weight of the loss of PSPNet's auxiliary head (its authors: 0.4); other networks have none.",
        0.4,
        low=0,
        high=10,
    )
    head_learning_rate_factor: float = setting(
        "Factor on the learning rate of the classifier, for fine-tuning.", 1.0, low=0, high=1000
    )
    frozen_stages: int = setting(
        "How many of the first stages of a RepVGG keep the weights that they started from.", 0, low=0, high=5
    )
    validate_every: int = setting(
        "Validate after every so many epochs, and in every case after the last; 0 for the last alone.",
        1,
        low=0,
        high=LONGEST,
    )

    def check(self) -> None:
        """Rules over several settings; raises ValueError with one sentence."""
        if self.global_batch_size % self.batch_norm_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of batch_norm_batch_size "
                f"{self.batch_norm_batch_size}; change one of them"
            )
        if self.learning_rate <= 0:
            raise ValueError("learning_rate is 0, so nothing would be learned; set a positive one")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of the {self.epochs} epochs")
        if self.packed and not re.fullmatch(_PACKED, self.packed):
            raise ValueError(
                f"packed is {self.packed!r} instead of short side and JPEG quality of a packed copy, as in short256-q90"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        try:
            parse_protocol(self.validation)
        except CompanionError as error:
            raise ValueError(f"validation: {error}") from None

    def settings(self) -> dict[str, Any]:
        """All settings, without later fields that hold the value which keeps the earlier behaviour."""
        values = self.as_dict()
        return {
            name: value
            for name, value in values.items()
            if name not in _DEFAULTS_ADDED_LATER or value != _DEFAULTS_ADDED_LATER[name]
        }

    def to_json(self) -> str:
        """The settings as one line of JSON with sorted keys."""
        return canonical_json(self.settings())

    def decided(self, decisions: Mapping[str, Any]) -> "Recipe":
        """This recipe with the precision, memory format and threads that were decided at the first start."""
        return replace(self, **{name: decisions[name] for name in ("precision", "memory_format", "threads")})

    def validates_after(self, epoch: int) -> bool:
        """Whether there is a validation after `epoch`, counted from 1."""
        return epoch == self.epochs or (self.validate_every > 0 and epoch % self.validate_every == 0)

    @property
    def channels_last(self) -> bool:
        """Whether images and weights are stored channels last; `memory_format` must be decided."""
        return self.memory_format == "channels_last"

    @property
    def micro_batches(self) -> int:
        """Micro-batches per optimizer step, over all processes."""
        return self.global_batch_size // self.batch_norm_batch_size

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """What differs between stored settings and this recipe, as `name stored -> now`, sorted."""
        now = json.loads(self.to_json())
        names = sorted(set(now) | set(stored))
        return [f"{name} {stored.get(name)} -> {now.get(name)}" for name in names if stored.get(name) != now.get(name)]
