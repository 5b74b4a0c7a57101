"""Sum the gradients of a global batch over its micro-batches and processes.

The sums form one binary tree over the micro-batches, no matter in which process they are computed, so on CPUs the
result has the same bits for 1, 2, 4 ... processes. (Floating-point addition is not associative, and a training
amplifies the last bit within some ten steps.) On GPUs the order between processes is NCCL's.
"""

from typing import Any

import torch
from torch import nn

BUCKET_BYTES = 25 << 20
"""Size of one exchange: large enough for the network's bandwidth, small enough to overlap with the backward pass."""
_Exchange = tuple[Any, list[torch.Tensor] | None]
"""An exchange under way: what to wait for, and the parts of all processes (None: summed in place)."""


class GradientTree:
    """Adds up the gradients of one process's micro-batches in the order of a binary tree; holds log2 of them."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self._sums: list[tuple[int, list[torch.Tensor]]] = []  # (level in the tree, one tensor per parameter)

    def take(self) -> None:
        """Take the gradients of the next micro-batch from the parameters, and clear them."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        for parameter in self.parameters:
            parameter.grad = None
        level = 0
        while self._sums and self._sums[-1][0] == level:
            gradients = _added(self._sums.pop()[1], gradients)
            level += 1
        self._sums.append((level, gradients))

    def finish(self) -> None:
        """Set every parameter's gradient to the sum of all that were taken."""
        _, gradients = self._sums.pop()
        while self._sums:  # if their number is not a power of two
            gradients = _added(self._sums.pop()[1], gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient


def _added(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[torch.Tensor]:
    torch._foreach_add_(left, right)
    return left


class GradientBuckets:
    """Flat buffers that sum the gradients over the processes.

    Every parameter has a view of a buffer with its own strides, which the fused optimizer kernel needs. Where each
    process has one micro-batch, backward writes into these views and a buffer is exchanged as soon as it is full. The
    cut into buffers follows the order of the parameters alone, so a resumed run sums in the same order as one that was
    never interrupted (torch's DistributedDataParallel re-cuts its buckets after the first step).
    """

    def __init__(self, parameters: list[nn.Parameter], size: int, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.size = size
        self.buckets: list[torch.Tensor] = []
        self._views: list[tuple[nn.Parameter, torch.Tensor]] = []
        self._members: list[int] = []
        self._missing: list[int] = []
        self._works: list[_Exchange | None] = []
        self.overlaps = False
        chunk: list[nn.Parameter] = []
        # Backward fills the gradients from the last layer to the first.
        for parameter in reversed(parameters):
            chunk.append(parameter)
            if sum(item.numel() * item.element_size() for item in chunk) >= bucket_bytes:
                self._add(chunk)
                chunk = []
        if chunk:
            self._add(chunk)

    def _add(self, parameters: list[nn.Parameter]) -> None:
        number = len(self.buckets)
        flat = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
        start = 0
        for parameter in parameters:
            view = flat.as_strided(parameter.shape, parameter.stride(), storage_offset=start)
            self._views.append((parameter, view))
            parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._filled(number))
            start += parameter.numel()
        self.buckets.append(flat)
        self._members.append(len(parameters))

    def exchange_during_backward(self) -> None:
        """Call before the only backward pass of a step: its gradients go into the buffers and are exchanged at once."""
        for bucket in self.buckets:
            bucket.zero_()
        for parameter, view in self._views:
            parameter.grad = view
        self._missing = list(self._members)
        self._works = [None] * len(self.buckets)
        self.overlaps = True

    def _filled(self, number: int) -> None:
        if not self.overlaps:
            return
        self._missing[number] -= 1
        if self._missing[number] == 0:
            self._works[number] = self._start(number)

    def finish(self) -> None:
        """Exchange the rest, wait for everything, and leave the sums as the parameters' gradients."""
        if not self.overlaps:
            self._works = [None] * len(self.buckets)
            with torch.no_grad():
                for parameter, view in self._views:
                    assert parameter.grad is not None, "the tree sets every gradient"
                    view.copy_(parameter.grad)
                    parameter.grad = view
        for number, work in enumerate(self._works):
            # A bucket with a parameter that got no gradient was never full.
            self._wait(number, self._start(number) if work is None else work)
        self.overlaps = False

    def _start(self, number: int) -> _Exchange:
        bucket = self.buckets[number]
        if bucket.is_cuda or self.size & (self.size - 1):
            return torch.distributed.all_reduce(bucket, async_op=True), None
        parts = [torch.empty_like(bucket) for _ in range(self.size)]
        return torch.distributed.all_gather(parts, bucket, async_op=True), parts

    def _wait(self, number: int, started: _Exchange) -> None:
        work, parts = started
        work.wait()
        if parts is not None:
            while len(parts) > 1:
                parts = [left.add_(right) for left, right in zip(parts[::2], parts[1::2], strict=True)]
            self.buckets[number].copy_(parts[0])
