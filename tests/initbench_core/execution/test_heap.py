"""Freed memory stays with the process, so that it is not cleared anew at every step."""

import ctypes
import resource

import pytest
import torch

from initbench_core.execution.heap import keep_freed_memory

PAGES = 7_680  # of 30 MB


def page_faults() -> int:
    """Count the pages that the system clears for three tensors of 30 MB that are made, written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.full((30 * 2**18,), 1.0) for _ in range(3)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_megabytes_are_not_cleared_again() -> None:
    """By default glibc keeps 64 MB at most, whatever has been freed before; these are 90."""
    keep_freed_memory()
    assert min(page_faults() for _ in range(5)) < PAGES / 2
