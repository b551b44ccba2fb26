"""What all tests share: which of them this process can run."""

import os

import pytest
import torch
from gpu_device import REHEARSING

# Triton reads TRITON_INTERPRET when it is imported, so interpreted tests need a process of their own:
# test_interpreted.py starts it. `TRITON_INTERPRET=1 pytest tests/interpreted` is the same by hand.
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = [] if INTERPRETING else ["interpreted"]


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave the tests out of `pytest --benchmark-only`: their skips, a line each, would bury its tables."""
    return True if config.getoption("benchmark_only", default=False) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available() or REHEARSING:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
