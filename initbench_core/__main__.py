"""`python -m initbench_core`: the command line without an installation."""

import sys

from initbench_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
