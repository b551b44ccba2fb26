"""The threads that fill large tensors on the CPU: in a forked process, and where one of them fails."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from initbench_kernels.random_fill.parallel import in_parallel

FORKS = """
import os, torch
from initbench_kernels import Fill, fill_

def values():
    tensor = torch.empty(600_000)
    fill_([Fill(tensor, "normal", "w")], seed=0, backend="eager")
    return tensor

torch.set_num_threads(2)
wanted = values()
child = os.fork()
if child == 0:
    # Python's own checks of two tensors take no threads, which the fork has not got from OpenMP either.
    os._exit(0 if values().tolist() == wanted.tolist() else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_fills_too() -> None:
    """Its parent's threads are not there, and it does not wait for them."""
    assert subprocess.run([sys.executable, "-c", FORKS], timeout=120).returncode == 0


@pytest.mark.parametrize("fails", [0, 1])
def test_a_failure_is_raised_when_all_threads_are_done(fails: int) -> None:
    """Whichever part fails, nothing is written after the call, and the number of threads is as before."""
    done, late = [], threading.Event()

    def work(part: int) -> None:
        if part == fails:
            late.set()
            raise MemoryError("no room")
        late.wait(timeout=10)
        done.append(part)

    before = torch.get_num_threads()
    with pytest.raises(MemoryError, match="no room"):
        in_parallel(2, work)
    assert done == [1 - fails]
    assert torch.get_num_threads() == before
