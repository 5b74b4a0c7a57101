"""The processes of one training, and the few messages they exchange.

One process is a group of size 1 whose exchanges do nothing, so the training loop is the same.
"""

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.device import choose_device
from repvgg_companion.training.job.launch import under_torchrun


@dataclass
class ProcessGroup:
    """This process among those of the training: its rank, their number, its device.

    Control messages (stop, checkpoint, decisions) go through `control`, a gloo group on the CPU, so they never wait for
    a GPU; gradients go through the default group (NCCL on GPUs, gloo on CPUs).
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    control: Any = None
    _pending: Any = field(default=None, repr=False)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and draws progress."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The leading process's `value`, in every process (any picklable object)."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def share_tensors(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite tensors with those of the leading process."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def agree(self, requested: int) -> int:
        """The largest request of all processes, one step late: all get the same answer after the same step.

        The exchange of this step runs while the next one computes, so nothing waits for it.
        """
        if self.size == 1:
            return requested
        agreed = 0
        if self._pending is not None:
            work, box = self._pending
            work.wait()
            agreed = int(box.item())
        box = torch.tensor([requested])
        work = torch.distributed.all_reduce(box, op=torch.distributed.ReduceOp.MAX, group=self.control, async_op=True)
        self._pending = (work, box)
        return agreed

    def settle(self) -> None:
        """Finish an exchange that `agree` left under way; call it when all processes stop stepping."""
        if self._pending is not None:
            with contextlib.suppress(RuntimeError):  # a process that died does not answer
                self._pending[0].wait()
            self._pending = None


def join(device_name: str, micro_batches: int) -> ProcessGroup:
    """Join the processes that torchrun started, or be a group of one.

    `device_name` is auto, cpu or cuda. Raises CompanionError if a GPU was asked for and none is visible, or if the
    processes cannot share the `micro_batches` of an optimizer step evenly.
    """
    size = int(os.environ["WORLD_SIZE"]) if under_torchrun() else 1
    if micro_batches % size:
        fitting = [number for number in range(1, micro_batches + 1) if micro_batches % number == 0]
        raise CompanionError(
            f"{size} processes cannot share the {micro_batches} micro-batches of an optimizer step evenly "
            f"(global_batch_size / batch_norm_batch_size); start {', '.join(map(str, fitting))} of them"
        )
    on_gpu = choose_device(device_name) == "cuda"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise CompanionError(
            f"process {local_rank} of this machine has no GPU of its own: torch sees {torch.cuda.device_count()}; "
            "start one process per GPU"
        )
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if size == 1:
        return ProcessGroup(device)
    from torch import distributed

    distributed.init_process_group("nccl" if on_gpu else "gloo")
    control = distributed.new_group(backend="gloo") if on_gpu else distributed.group.WORLD
    return ProcessGroup(device, distributed.get_rank(), size, control)


def leave(group: ProcessGroup) -> None:
    """Leave torch's process group, if there is one."""
    if group.size > 1:
        group.settle()
        torch.distributed.destroy_process_group()
