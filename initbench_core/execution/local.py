"""Jobs in worker processes of this machine, each in a process group of its own.

Not concurrent.futures: when one process of its pool dies, every job that waits is lost, and none can be ended.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe, wait
from typing import Any

from initbench_core.execution.job import Done, Job, Progress, T
from initbench_core.records.schema import Failure

# Seconds for a worker to start and to import what a job needs, beside the job's own limit.
START_LIMIT = 120.0


@dataclass
class _Task:
    """A job on its way: which one, how often it was tried, until when it may run, what it has done."""

    index: int
    job: Job[Any]
    attempt: int = 1
    deadline: float = float("inf")
    fraction: float = 0.0


class _Worker:
    """A process, and the task it works on."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.pipe, far_end = Pipe()
        # A worker finds the code where this process found it, whether installed or on a path.
        environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "initbench_core.execution.worker", str(far_end.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[far_end.fileno()],
            env=environment,
            start_new_session=True,
        )
        far_end.close()
        self.task: _Task | None = None

    def begin(self, task: _Task) -> None:
        self.task = task
        try:
            self.pipe.send(task.job)
        except BrokenPipeError:
            # It died while idle: reading from it says so.
            pass

    def end(self) -> str:
        """Kill it with all that it started; say what it died of, if it had died before."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.pipe.close()
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class LocalExecutor:
    """Runs jobs in worker processes that are started when first needed, live on, and are fed job by job."""

    def __init__(self, workers: Sequence[Mapping[str, str]], on_progress: Progress) -> None:
        """Start nothing yet.

        Args:
            workers: what to add to the environment of each worker process: its threads, its GPU.
            on_progress: told how many trials' worth of the running jobs is done.
        """
        self.environments = workers
        self.on_progress = on_progress
        self.workers: list[_Worker | None] = [None] * len(workers)

    def run(self, jobs: Sequence[Job[T]], *, timeout: float | None, retries: int) -> Iterator[Done[T]]:
        """Run `jobs` side by side, handed out in order; see `Executor`."""
        waiting = deque(_Task(index, job) for index, job in enumerate(jobs))
        try:
            while waiting or self._busy():
                self._hand_out(waiting, timeout)
                for worker in self._speaking():
                    done = self._hear(worker, waiting, timeout, retries)
                    if done:
                        yield done
                for worker in self._overdue():
                    assert worker.task and timeout
                    limit = timeout * worker.task.job.trials
                    yield self._give_up(worker, Failure("timeout", f"longer than {limit:g} s", worker.task.attempt))
        finally:
            # An interruption, an error, or a caller who wants no more.
            for worker in self._busy():
                self._discard(worker)

    def close(self) -> None:
        """Kill the workers with all that they started."""
        for worker in self.workers:
            if worker:
                self._discard(worker)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker and worker.task]

    def _hand_out(self, waiting: deque[_Task], timeout: float | None) -> None:
        for slot, environment in enumerate(self.environments):
            worker = self.workers[slot]
            if not waiting or (worker and worker.task):
                continue
            if worker is None:
                self.workers[slot] = worker = _Worker(environment)
            task = waiting.popleft()
            task.deadline = time.monotonic() + START_LIMIT + _limit(task, timeout)
            worker.begin(task)

    def _speaking(self) -> list[_Worker]:
        """Wait for a message or a deadline; return the workers that sent a message, or died."""
        busy = self._busy()
        first = min(worker.task.deadline for worker in busy if worker.task)
        patience = max(0.0, first - time.monotonic()) if first < float("inf") else None
        ready = wait([worker.pipe for worker in busy], patience)
        return [worker for worker in busy if worker.pipe in ready]

    def _hear(
        self, worker: _Worker, waiting: deque[_Task], timeout: float | None, retries: int
    ) -> Done[Any] | None:
        task = worker.task
        assert task
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            return self._lose(worker, waiting, retries)
        if kind == "started":
            task.deadline = time.monotonic() + _limit(task, timeout)
        elif kind == "progress":
            task.fraction = content
            self.on_progress(sum(w.task.fraction * w.task.job.trials for w in self._busy() if w.task))
        elif kind == "refused":
            raise content
        elif kind == "failed":
            failure = replace(content, attempts=task.attempt)
            if failure.reason == "out_of_memory":
                # What is left in that process may fail the next job too.
                return self._give_up(worker, failure)
            worker.task = None
            return Done(task.index, failure=failure)
        else:
            worker.task = None
            return Done(task.index, content)
        return None

    def _lose(self, worker: _Worker, waiting: deque[_Task], retries: int) -> Done[Any] | None:
        """Note that a worker died; its job is tried again, or given up."""
        task = worker.task
        assert task
        cause = self._discard(worker)
        if task.attempt <= retries:
            waiting.appendleft(_Task(task.index, task.job, task.attempt + 1))
            return None
        return Done(task.index, failure=Failure("crashed", f"its process was lost: {cause}", task.attempt))

    def _overdue(self) -> list[_Worker]:
        now = time.monotonic()
        return [worker for worker in self._busy() if worker.task and worker.task.deadline <= now]

    def _give_up(self, worker: _Worker, failure: Failure) -> Done[Any]:
        assert worker.task
        self._discard(worker)
        return Done(worker.task.index, failure=failure)

    def _discard(self, worker: _Worker) -> str:
        self.workers[self.workers.index(worker)] = None
        return worker.end()


def _limit(task: _Task, timeout: float | None) -> float:
    return float("inf") if timeout is None else timeout * task.job.trials
