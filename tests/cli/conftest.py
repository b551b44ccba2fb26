"""The command line, called in this process."""

import signal
import sys

import pytest
import torch

from initbench_core import cli
from tests.cli.command import Call


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process; return its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["initbench", *map(str, arguments)])
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = cli.main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            torch.use_deterministic_algorithms(False)
        return code, *capsys.readouterr()

    return run
