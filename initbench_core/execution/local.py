"""Jobs in worker processes of this machine, each in a process group of its own.

Not concurrent.futures: when one process of its pool dies, every job that waits is lost, and none can be ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from multiprocessing.connection import Pipe, wait
from typing import Any

from initbench_core.execution.job import Done, Job, Progress, T
from initbench_core.records.schema import Failure

# Seconds for a worker to start and to import what a job needs, before the job's own limit counts.
START_LIMIT = 120.0


@dataclass
class _Task:
    """A job on its way: which one, how often it was tried, until when it may run, what fraction is done."""

    index: int
    job: Job[Any]
    attempt: int = 1
    deadline: float = inf
    fraction: float = 0.0

    def start(self, timeout: float | None, grace: float = 0.0) -> None:
        """Set the deadline: so many seconds per trial from now, and some grace."""
        if timeout is not None:
            self.deadline = time.monotonic() + timeout * self.job.trials + grace


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.pipe, far_end = Pipe()
        # A worker finds the code where this process found it, whether installed or on a path.
        path = os.pathsep.join(entry or "." for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "initbench_core.execution.worker", str(far_end.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[far_end.fileno()],
            env={**os.environ, **environment, "PYTHONPATH": path},
            start_new_session=True,
        )
        far_end.close()

    def begin(self, job: Job[Any]) -> None:
        # A worker that died while it was idle says so when it is read from.
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(job)

    def end(self) -> str:
        """Kill it with all that it started; return what it died of."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.pipe.close()
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class LocalExecutor:
    """Runs jobs in worker processes that start when first needed, live on, and are fed job by job."""

    def __init__(self, environments: Iterable[Mapping[str, str]], on_progress: Progress) -> None:
        """Start nothing yet.

        Args:
            environments: variables of each worker process: its threads, its GPU.
            on_progress: told how many of the running trials are done, fractions added up.
        """
        self.free = list(environments)
        self.idle: list[_Worker] = []
        self.running: dict[_Worker, _Task] = {}
        self.on_progress = on_progress

    def run(self, jobs: Sequence[Job[T]], *, timeout: float | None, retries: int) -> Iterator[Done[T]]:
        """Run `jobs` side by side, handed out in order; see `Executor`."""
        waiting = deque(_Task(index, job) for index, job in enumerate(jobs))
        try:
            while waiting or self.running:
                self._hand_out(waiting, timeout)
                for worker, task in self._heard():
                    try:
                        kind, content = worker.pipe.recv()
                    except (EOFError, OSError):
                        cause = self._discard(worker)
                        if task.attempt <= retries:
                            waiting.appendleft(_Task(task.index, task.job, task.attempt + 1))
                        else:
                            yield _failed(task, Failure("crashed", f"its process was lost: {cause}"))
                        continue
                    if kind == "started":
                        task.start(timeout)
                    elif kind == "progress":
                        task.fraction = content
                        self.on_progress(sum(t.fraction * t.job.trials for t in self.running.values()))
                    elif kind == "refused":
                        raise content
                    elif kind == "failed":
                        # Not to this worker again, should its memory have run out: the next job would find it so.
                        self._discard(worker) if content.reason == "out_of_memory" else self._rest(worker)
                        yield _failed(task, content)
                    else:
                        self._rest(worker)
                        yield Done(task.index, content)
                for worker, task in self._overdue():
                    self._discard(worker)
                    assert timeout is not None
                    yield _failed(task, Failure("timeout", f"longer than {timeout * task.job.trials:g} s"))
        finally:
            # After an interruption, an error, or a caller who wants no more.
            for worker in list(self.running):
                self._discard(worker)

    def close(self) -> None:
        """Kill the workers with all that they started."""
        for worker in [*self.idle, *self.running]:
            self._discard(worker)

    def _hand_out(self, waiting: deque[_Task], timeout: float | None) -> None:
        while waiting and (self.idle or self.free):
            worker = self.idle.pop() if self.idle else _Worker(self.free.pop(0))
            task = waiting.popleft()
            self.running[worker] = task
            task.start(timeout, grace=START_LIMIT)
            worker.begin(task.job)

    def _heard(self) -> list[tuple[_Worker, _Task]]:
        """Wait until a worker sent something, died, or is overdue; return those to read from."""
        first = min(task.deadline for task in self.running.values())
        patience = None if first == inf else max(0.0, first - time.monotonic())
        ready = wait([worker.pipe for worker in self.running], patience)
        return [(worker, task) for worker, task in self.running.items() if worker.pipe in ready]

    def _overdue(self) -> list[tuple[_Worker, _Task]]:
        now = time.monotonic()
        return [(worker, task) for worker, task in self.running.items() if task.deadline <= now]

    def _rest(self, worker: _Worker) -> None:
        del self.running[worker]
        self.idle.append(worker)

    def _discard(self, worker: _Worker) -> str:
        self.running.pop(worker, None)
        if worker in self.idle:
            self.idle.remove(worker)
        self.free.append(worker.environment)
        return worker.end()


def _failed(task: _Task, failure: Failure) -> Done[Any]:
    return Done(task.index, failure=replace(failure, attempts=task.attempt))
