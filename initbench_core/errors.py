"""The exceptions that a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class MissingDataError(UserError):
    """A data set is missing or damaged: the experiments that do without it can still run."""


class TrialsFailedError(Exception):
    """Some trials have no result; all others are recorded. The command line prints it and exits with code 3."""
