"""The errors that a user reads, and words that their sentences share."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class CompanionError(Exception):
    """Something a user can fix: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and leaves with exit status 2.
    """


class Interrupted(CompanionError):
    """Long work stopped on request with its state saved; the command line leaves with exit status 75 (try again)."""


_SAID_BY_A_VERB = re.compile(r"[a-z-]+: error: ")
SYSTEM_ADVICE = "fix that and run again"
"""Ends the sentence about an error of the system (a full disk, a file that cannot be read)."""
_MAY_PASS = (SYSTEM_ADVICE, "start the same command again", "wait until that ends")
"""The advice of errors that the same command may not meet again, on another node or later."""


def needs_fixing(line: str) -> bool:
    """Whether the last line of a job's log is an error that every further attempt would meet until a user fixes it.

    A system error, a lost process or a state folder that another process holds may be gone next time.
    """
    return bool(_SAID_BY_A_VERB.match(line)) and not any(advice in line for advice in _MAY_PASS)


@contextmanager
def located(where: object) -> Iterator[None]:
    """Put `where` (a file, a line) in front of the sentence of an error that is raised inside."""
    try:
        yield
    except CompanionError as error:
        raise CompanionError(f"{where}: {error}") from None


def require_kind(value: object, kinds: type | tuple[type, ...], name: str, wanted: str) -> None:
    """Raise CompanionError unless the argument `name` is of one of these kinds, which `wanted` says in words."""
    if not isinstance(value, kinds):
        raise CompanionError(f"{name} is of type {type(value).__name__}; give {wanted}")


def require_count(value: object, name: str) -> None:
    """Raise CompanionError unless the argument `name` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CompanionError(f"{name} is {value!r}; give a whole number of at least 1")


def one_line(error: object) -> str:
    """The text of an error on one line, whatever line breaks it has."""
    return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", str(error)).strip()


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Up to `count` of the known names that look most like `name`, upper and lower case alike; none if none does."""
    by_lower = {one.lower(): one for one in known}
    return [by_lower[near] for near in difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5)]


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "known are") -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them after `otherwise`."""
    known = list(known)
    near = nearest(name, known)
    return f"did you mean {near[0]}?" if near else f"{otherwise} {', '.join(known) or 'none'}"


def choose_one(value: object, known: Iterable[str]) -> str:
    """The end of a sentence about a value that is not allowed: all that are, and the nearest if one is near."""
    known = list(known)
    near = nearest(str(value), known)
    return f"choose one of {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else "")


def counted(number: int, what: str) -> str:
    """`1 note`, `2 notes`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
