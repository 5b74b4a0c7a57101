"""Worker processes: their batches in order, their errors as one sentence, their death noticed."""

import os
import signal
import sys

import pytest
import torch

from repvgg_companion.data.batches.loading import load
from repvgg_companion.errors import CompanionError


class _Squares:
    """Batch `number` is its square; 3 fails in the given way."""

    def __init__(self, failure: str = "") -> None:
        self.failure = failure

    def __getitem__(self, number: int) -> int:
        if number == 3 and self.failure == "sentence":
            raise CompanionError("image 3 is gone; put it back")
        if number == 3 and self.failure == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_the_order_that_was_asked_for(workers):
    assert list(load(_Squares(), range(4, 11), workers=workers)) == [number**2 for number in range(4, 11)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sentence_arrives_as_it_was_written(workers):
    made = load(_Squares("sentence"), range(6), workers=workers)
    assert [next(made) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(CompanionError) as caught:
        next(made)
    assert str(caught.value) == "image 3 is gone; put it back"


def test_a_worker_that_is_killed_is_one_sentence():
    with pytest.raises(
        CompanionError, match=r"that reads images died \(DataLoader worker .*use fewer workers"
    ) as caught:
        list(load(_Squares("kill"), range(6), workers=2))
    assert "\n" not in str(caught.value)


class _Images:
    def __getitem__(self, number: int) -> tuple:
        return torch.zeros(100_000, dtype=torch.uint8), number


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_shared_memory_that_cannot_be_had_is_one_sentence_and_not_a_wait_for_ever():
    import resource

    child = os.fork()
    if child == 0:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            list(load(_Images(), range(4), workers=1))
        except CompanionError as error:
            os._exit(0 if "no shared memory for a batch" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
