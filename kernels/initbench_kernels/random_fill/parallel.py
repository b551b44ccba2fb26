"""Threads of the CPU's fills: each takes whole loads, and torch's own threads rest meanwhile."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

# More threads than this wait for Python's lock, which each passes on at every operation; not measured beyond two.
MAX_THREADS = 8


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # Kept: to start its threads for every call would take 0.2 ms, as long as a hundred thousand uniforms.
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="initbench-fill")


if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads, and would wait for them.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def in_parallel(threads: int, work: Callable[[int], None]) -> None:
    """Run work(0) to work(threads - 1): the first here, the others on threads of their own, each without torch's."""
    inference = torch.is_inference_mode_enabled()

    def elsewhere(part: int) -> None:
        # Both modes belong to a thread, and a new one has neither; inference_mode(False) turns gradients on.
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    # torch would split every long operation of each thread once more: more threads than cores, waiting at barriers.
    # The number belongs to the calling thread, and to threads that run their first operation while it stands.
    intra_op_threads = torch.get_num_threads()
    others: list[Future[None]] = []
    try:
        torch.set_num_threads(1)
        others.extend(_pool().submit(elsewhere, part) for part in range(1, threads))
        work(0)
    finally:
        # Also where this part failed: nothing may be written once the call is over.
        wait(others)
        torch.set_num_threads(intra_op_threads)
    for other in others:
        other.result()
