"""Runs the tests of tests/interpreted under Triton's interpreter, and rehearses those for a GPU: a process per file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# The tests for a GPU are rehearsed: what they do where there is one is not to fail for a slip of their own.
FILES = [*(TESTS / "interpreted").rglob("test_*.py"), *TESTS.rglob("test_*_gpu.py")]


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: path.stem)
def test_interpreted(path: Path) -> None:
    """Every test in the file passes; its own report is shown where one does not."""
    command = [sys.executable, "-m", "pytest", str(path), "-q", "-p", "no:cacheprovider", "--durations=3"]
    # Without a GPU also where there is one: what is made for one would take the interpreter days.
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    report = done.stdout + done.stderr
    print(report)
    # An exit status of 5 (no test collected) is a failure here as well.
    assert done.returncode == 0, report
