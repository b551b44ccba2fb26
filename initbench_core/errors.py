"""The exceptions that a user is meant to read."""

from collections.abc import Collection


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class MissingDataError(UserError):
    """A data set is missing or damaged: the experiments that do without it can still run."""


class ConfigError(UserError, ValueError):
    """A configuration names what does not exist, or what does not fit together.

    Every trial of that configuration would say the same, so it ends the experiment. To callers of the library it is a
    ValueError like any other.
    """


class TrialsFailedError(Exception):
    """Some trials have no result; all others are recorded. The command line prints it and exits with code 3."""


def check_choice(what: str, name: str, choices: Collection[str]) -> None:
    """Refuse a name that is none of the choices.

    Raises:
        ConfigError: "unknown WHAT 'NAME': choose from ...".
    """
    if name not in choices:
        raise ConfigError(f"unknown {what} {name!r}: choose from {', '.join(choices)}")
