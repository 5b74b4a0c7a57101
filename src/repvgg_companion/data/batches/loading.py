"""Batches made by worker processes, handed out in order.

On Linux workers are forked, whatever Python's default is, so that they share the open descriptors of the archives.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

from repvgg_companion.errors import CompanionError, one_line

PREFETCHED = 2


class Batches(Protocol):
    """Anything that makes batch `number` on demand."""

    def __getitem__(self, number: int) -> Any:
        """Batch `number`."""


def load(batches: Batches, numbers: Sequence[int], *, workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """`batches[number]` for each of `numbers`, in order, by `workers` processes, or in this process if `workers` is 0.

    At most `PREFETCHED` batches of each worker wait. Raises the CompanionError of a worker as it was raised there, and
    one if a worker process died.
    """
    if workers == 0:
        for number in numbers:
            yield batches[number]
        return
    from torch.utils.data import DataLoader, Dataset

    loader: DataLoader[Any] = DataLoader(
        cast(Dataset[Any], _Guarded(batches)),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=PREFETCHED,
        pin_memory=pin_memory,
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )
    made = iter(loader)
    while True:
        try:
            batch = next(made)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise CompanionError(
                f"a process that reads images died ({one_line(error)}), probably because memory or shared memory "
                "ran out; use fewer workers, or free some memory"
            ) from None
        if isinstance(batch, _Failure):
            raise CompanionError(batch.sentence)
        yield batch


class _Failure(NamedTuple):
    """An error travels as text, because `DataLoader` adds a traceback to exceptions."""

    sentence: str


class _Guarded:
    """Batches with their errors as `_Failure`, and with their tensors in shared memory already.

    `DataLoader` would move them there in a thread whose errors it does not send back, and then wait forever.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Any:
        import torch

        try:
            batch = self.batches[number]
        except CompanionError as error:
            return _Failure(str(error))
        try:
            for part in batch if isinstance(batch, tuple) else ():
                if isinstance(part, torch.Tensor):
                    part.share_memory_()
        except RuntimeError as error:
            return _Failure(f"no shared memory for a batch of images ({one_line(error)}); free some, or use no workers")
        return batch
