"""A worker process: takes jobs from a pipe, one after the other, and sends back what became of them.

It ends with its driver, whatever happens to either: a thread waits for the pipe to close and then kills the process
group, so that what a job has started goes too.
"""

import os
import pickle
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from initbench_core.execution.heap import keep_freed_memory
from initbench_core.execution.job import failure_of
from initbench_core.execution.task import attempt

PROGRESS_INTERVAL = 0.5  # seconds between messages


def main(descriptor: int) -> None:
    """Serve the pipe of this descriptor until it closes."""
    keep_freed_memory()
    driver = Connection(descriptor)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(driver, jobs), daemon=True).start()
    while True:
        kind, content = _run(jobs.get(), driver)
        try:
            driver.send((kind, content))
        except Exception as error:  # a result that cannot be pickled
            driver.send(("failed", failure_of(error)))


def _run(pickled: bytes, driver: Connection) -> tuple[str, Any]:
    told = time.monotonic()

    def progress(fraction: float) -> None:
        nonlocal told
        if time.monotonic() - told >= PROGRESS_INTERVAL:
            told = time.monotonic()
            driver.send(("progress", fraction))

    try:
        job = pickle.loads(pickled)
    except Exception as error:
        return "failed", failure_of(error)
    # All that takes long before the job's own time is over: the interpreter's start, and the imports.
    driver.send(("started", None))
    return attempt(job, progress)


def _receive(driver: Connection, jobs: "queue.SimpleQueue[bytes]") -> None:
    try:
        while True:
            jobs.put(driver.recv_bytes())
    except (EOFError, OSError):
        os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
