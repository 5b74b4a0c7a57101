"""The errors that a user reads."""

import re


class CompanionError(Exception):
    """Something a user can fix: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and leaves with exit status 2.
    """


class Interrupted(CompanionError):
    """Long work stopped on request with its state saved; the command line leaves with exit status 75 (try again)."""


def one_line(error: object) -> str:
    """The text of an error on one line, whatever line breaks it has."""
    return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", str(error)).strip()
