"""How many processes a training has on this machine: what torchrun says, and starting them. Needs no torch."""

import os


def under_torchrun() -> bool:
    """Whether this process was started by torchrun (or anything that sets the same variables)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """The rank that torchrun gave this process, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))
