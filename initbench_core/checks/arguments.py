"""What the checks refuse before they measure anything: numbers below 1, and tensors that no memory here holds."""

import os

from initbench_core.errors import UserError


def check_positive(options: object, *names: str) -> None:
    """Refuse numbers below 1.

    Args:
        options: what argparse returned.
        names: of its numbers, and of lists of them.

    Raises:
        UserError: one is below 1.
    """
    for name in names:
        given = getattr(options, name)
        for number in given if isinstance(given, list) else [given]:
            if number < 1:
                raise UserError(f"--{name.replace('_', '-')} {number}: give a number of at least 1")


def check_fits(what: str, num_bytes: int) -> None:
    """Refuse what needs more than this machine's memory, be it free or not.

    Raises:
        UserError: it does.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise UserError(f"{what}: needs {num_bytes / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB")
