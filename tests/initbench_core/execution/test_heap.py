"""Freed memory stays with the process, so that it is not cleared anew at every step."""

import ctypes
import subprocess
import sys

import pytest

# Each process has a heap of its own to begin with: what other tests have left of theirs would decide where blocks lie.
COUNT_FAULTS = """
import ctypes
import resource
import sys

from initbench_core.execution.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(30 * 2**20) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, 30 * 2**20)
    for block in blocks:
        libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def page_faults(freed: str) -> int:
    """Count the pages that the system clears for three blocks of 30 MB that are made, written and freed again."""
    child = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, freed], capture_output=True, text=True, check=True, timeout=60
    )
    return int(child.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_megabytes_are_not_cleared_again() -> None:
    """By default glibc keeps 64 MB at most, whatever has been freed before; these are 90."""
    cleared = page_faults("hand back")
    assert cleared > 0, "this system counts no page faults"
    assert page_faults("keep") < cleared / 10
