"""Gradients of several processes: parameters in, their summed gradients out, exchanged while backward still runs."""

import torch
from torch import nn

BUCKET_BYTES = 25 << 20
"""Size of one exchange: large enough for the network's bandwidth, small enough to overlap with the backward pass."""


class GradientBuckets:
    """Flat buffers that hold all gradients; each is summed over the processes as soon as backward has filled it.

    Every parameter's `.grad` is a view with the parameter's own strides, which the fused optimizer kernel needs. The
    cut into buckets follows the order of the parameters alone, so a resumed run sums in the same order as one that was
    never interrupted (torch's DistributedDataParallel re-cuts its buckets after the first step).
    """

    def __init__(self, parameters: list[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self.buckets: list[torch.Tensor] = []
        self._views: list[tuple[nn.Parameter, torch.Tensor]] = []
        self._members: list[int] = []
        self._missing: list[int] = []
        self._works: list = []
        self.exchanging = False
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
            view = flat[start : start + parameter.numel()].as_strided(
                parameter.shape, parameter.stride(), storage_offset=start
            )
            parameter.grad = view
            self._views.append((parameter, view))
            parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._filled(number))
            start += parameter.numel()
        self.buckets.append(flat)
        self._members.append(len(parameters))

    def begin(self) -> None:
        """Set all gradients to zero before the first micro-batch of a step."""
        for bucket in self.buckets:
            bucket.zero_()
        for parameter, view in self._views:
            parameter.grad = view

    def exchange_next(self) -> None:
        """Call before the backward pass of the step's last micro-batch: its gradients complete the sums."""
        self._missing = list(self._members)
        self._works = [None] * len(self.buckets)
        self.exchanging = True

    def _filled(self, number: int) -> None:
        if not self.exchanging:
            return
        self._missing[number] -= 1
        if self._missing[number] == 0:
            self._works[number] = torch.distributed.all_reduce(self.buckets[number], async_op=True)

    def finish(self) -> None:
        """Wait until every sum is complete. A bucket with a parameter that got no gradient is exchanged here."""
        for number, work in enumerate(self._works):
            if work is None:
                work = torch.distributed.all_reduce(self.buckets[number], async_op=True)
            work.wait()
        self.exchanging = False
