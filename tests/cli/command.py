"""How the tests of the command line call it, and read what it recorded."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from initbench_core.records.store import read

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
COMMAND = [sys.executable, "-m", "initbench_core"]

# Exit code, output and errors of a command.
Call = Callable[..., tuple[int, str, str]]


def untimed(path: Path) -> dict[str, str]:
    """Return all that a file of records holds, but for the times."""
    return {
        record.key: repr((record.outcome, record.notes, [m for m in record.measurements if not m.is_time]))
        for record in read(path).records
    }
