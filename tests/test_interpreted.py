"""Runs the tests of tests/interpreted, one process per file, under Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("test_*.py")), ids=lambda path: path.stem)
def test_interpreted(path: Path) -> None:
    """Every test in the file passes; its own report is shown where one does not."""
    command = [sys.executable, "-m", "pytest", str(path), "-q", "-p", "no:cacheprovider", "--durations=3"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=FOLDER.parent.parent, env=environment, capture_output=True, text=True)
    report = done.stdout + done.stderr
    print(report)
    # An exit status of 5 (no test collected) is a failure here as well.
    assert done.returncode == 0, report
