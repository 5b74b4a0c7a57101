"""Random numbers that depend only on what they are for: (seed, epoch, image), never on who draws them or in what order.

A counter-based generator (splitmix64 over a hash of the parts), because numpy and torch promise no stream that is
stable over versions, and a generator object for each image would cost more than its crop.
"""

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
ORDER_STREAM, AUGMENTATION_STREAM = 1, 2


def _mix(values: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014) on uint64 values of any shape."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _states(seed: int, epoch: int, stream: int, indices: np.ndarray) -> np.ndarray:
    state = np.array([0], np.uint64)
    for part in (seed, epoch, stream):
        state = _mix(state + np.uint64(((part + 1) * _GOLDEN) & _MASK))
    return _mix(state + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 .. n-1 (int64) that depends on seed and epoch only."""
    return np.argsort(_states(seed, epoch, ORDER_STREAM, np.arange(n)), kind="stable")


def uniform_draws(seed: int, epoch: int, indices: np.ndarray, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) for each index, float64 [len(indices), count]."""
    states = _states(seed, epoch, AUGMENTATION_STREAM, np.asarray(indices))
    steps = (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(_GOLDEN)
    return (_mix(states[:, None] + steps[None, :]) >> np.uint64(11)) * 2.0**-53
