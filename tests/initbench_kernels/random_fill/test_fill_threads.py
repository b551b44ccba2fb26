"""The threads that fill large tensors on the CPU: in a forked process, and where one of them fails."""

import math
import os
import subprocess
import sys
import threading

import pytest
import torch

from initbench_kernels import Fill, fill_
from initbench_kernels.random_fill.bits import plain_words_
from initbench_kernels.random_fill.eager import Loads
from initbench_kernels.random_fill.parallel import in_parallel
from initbench_kernels.random_fill.rows import check_rows

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


def test_a_thread_that_is_held_up_leaves_the_other_loads_to_the_others() -> None:
    """Cores are not equally fast: loads belong to whoever is free."""
    tensor, drawn, others_done = torch.empty(3_000_000), [], threading.Event()

    def words(out: torch.Tensor, runs: torch.Tensor) -> None:
        plain_words_(out, runs)
        drawn.append(out.numel())
        if len(drawn) == 1:
            assert others_done.wait(timeout=60)
        elif sum(drawn) >= tensor.numel():
            others_done.set()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Loads(check_rows([Fill(tensor, "uniform", "w")])).fill_(0, words=words)
    finally:
        torch.set_num_threads(before)
    wanted = torch.empty_like(tensor)
    fill_([Fill(wanted, "uniform", "w")], seed=0, backend="eager")
    assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("width", [50, 3000], ids=["short", "long"])
def test_unlike_tensors_are_the_same_on_any_number_of_threads(width: int) -> None:
    """Short ones are left to one thread, and the number of threads is as before."""
    before, filled = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tensors = [torch.full((100 + i, width), math.nan) for i in range(80)]
            fill_([Fill(tensor, "uniform", i) for i, tensor in enumerate(tensors)], seed=0, backend="eager")
            assert torch.get_num_threads() == threads
            filled.append(tensors)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *filled))


@pytest.mark.parametrize("inference", [False, True], ids=["gradients on", "inference"])
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_parameters_of_all_threads_are_filled(distribution: str, inference: bool) -> None:
    """A parameter that wants a gradient is filled by whichever thread it falls to, in either mode."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode(inference):
            weights = [torch.full((300_001,), math.nan, requires_grad=not inference) for _ in range(3)]
            weights += [torch.full((300_001,), math.nan, dtype=torch.bfloat16, requires_grad=not inference)]
            fill_([Fill(weight, distribution, i) for i, weight in enumerate(weights)], seed=0, backend="eager")
    finally:
        torch.set_num_threads(before)
    assert not any(weight.isnan().any() for weight in weights)
    assert all(weight.requires_grad is not inference for weight in weights)
