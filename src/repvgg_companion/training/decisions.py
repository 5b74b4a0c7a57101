"""Settings that affect the weights but that a recipe may leave to the machine, as state.json keeps them."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Decisions:
    """What was decided at the first start of a training.

    `precision` is fp32, bf16 or fp16, `memory_format` contiguous or channels_last, `device_type` cpu or cuda.
    `memory_format_step_s` holds the seconds of a step in each memory format, if they were measured.
    """

    precision: str
    memory_format: str
    threads: int
    device_type: str
    memory_format_step_s: dict[str, float] | None = None

    @property
    def channels_last(self) -> bool:
        """Whether images and weights are stored channels last."""
        return self.memory_format == "channels_last"

    @property
    def torch_memory_format(self) -> "torch.memory_format":
        """The memory format as torch takes it."""
        import torch

        return torch.channels_last if self.channels_last else torch.contiguous_format

    def stored(self) -> dict[str, Any]:
        """The values as state.json stores them; `Decisions(**values)` reads them back."""
        return {name: value for name, value in asdict(self).items() if value is not None}
