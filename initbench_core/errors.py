"""The exceptions that a user is meant to read."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")

# The command line says an error in one line: so many choices still fit.
MOST_SHOWN = 50


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
        ConfigError: "unknown WHAT 'NAME': choose from ..."; of very many choices those that are spelt most like it.
    """
    if name not in choices:
        shown, of_all = list(choices), ""
        if len(shown) > MOST_SHOWN:
            shown, of_all = get_close_matches(name, shown, n=3, cutoff=0.0), f" {len(shown)} names, as"
        raise ConfigError(f"unknown {what} {name!r}: choose from{of_all} {', '.join(shown)}")


def choose(what: str, name: str, choices: Mapping[str, T]) -> T:
    """Return the entry of a table by its name.

    Raises:
        ConfigError: as `check_choice`.
    """
    check_choice(what, name, choices)
    return choices[name]
