"""How long the command line and the packages take to start, and how many modules an answer to --help imports."""

import subprocess
import sys

from .common import project

COUNT_MODULES = """
import contextlib, io, sys
from initbench_core import cli
sys.argv = ["initbench", "--help"]
with contextlib.redirect_stdout(io.StringIO()):
    cli.main()
print(len(sys.modules))
"""


def run(*arguments: str) -> str:
    """Run Python with the commit's packages on its path, as this process has them; return the output."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


class CommandLine:
    """A whole process, the interpreter's own start included; the target of --help is 0.5 s."""

    version = "1"
    repeat = (5, 10, 5.0)
    number = 1

    def time_help(self) -> None:
        run("-m", "initbench_core", "--help")

    def time_list(self) -> None:
        run("-m", "initbench_core", "list")

    def track_exact_modules_of_help(self) -> int:
        return int(run("-c", COUNT_MODULES))

    track_exact_modules_of_help.unit = "modules"  # type: ignore[attr-defined]


class Import:
    """In a fresh process; nearly all of it is torch, so three samples must do."""

    version = "1"
    rounds, repeat, warmup_time = 1, 3, 0

    def timeraw_initbench_kernels(self) -> str:
        project("initbench_kernels")
        return "import initbench_kernels"

    def timeraw_initialize(self) -> str:
        project("initbench_core.networks")
        return "from initbench_core.networks import initialize_"
