"""The errors that a user reads."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class CompanionError(Exception):
    """Something a user can fix: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and leaves with exit status 2.
    """


class Interrupted(CompanionError):
    """Long work stopped on request with its state saved; the command line leaves with exit status 75 (try again)."""


@contextmanager
def located(where: object) -> Iterator[None]:
    """Put `where` (a file, a line) in front of the sentence of an error that is raised inside."""
    try:
        yield
    except CompanionError as error:
        raise CompanionError(f"{where}: {error}") from None


def one_line(error: object) -> str:
    """The text of an error on one line, whatever line breaks it has."""
    return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", str(error)).strip()
