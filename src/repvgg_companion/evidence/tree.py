"""A tree of plain sentences: what a number rests on, and what that rests on in turn."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One sentence, with those that support it."""

    text: str
    children: tuple["Node", ...] = ()

    def lines(self, depth: int = 0) -> Iterator[str]:
        """The tree as indented lines."""
        yield f"{'  ' * depth}{'- ' if depth else ''}{self.text}"
        for child in self.children:
            yield from child.lines(depth + 1)
