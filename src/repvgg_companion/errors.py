"""The one error that a user is meant to read."""


class CompanionError(Exception):
    """Something a user can mend: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and leaves with exit status 2.
    """


class Interrupted(CompanionError):
    """Long work stopped on request with its state saved; the command line leaves with exit status 75 (try again)."""
