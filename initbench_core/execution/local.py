"""Jobs in worker processes of this machine, each in a process group of its own.

Not concurrent.futures: when one process of its pool dies, every job that waits is lost, and none can be ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Pipe, wait
from typing import Any

from initbench_core.execution.job import Done, Job, Progress, T
from initbench_core.execution.task import Task, is_out_of_memory, patience

# Seconds for a worker to start and to import what a job needs, before the job's own limit counts.
START_LIMIT = 120.0


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
        self.running: dict[_Worker, Task] = {}
        self.on_progress = on_progress

    def run(self, jobs: Sequence[Job[T]], *, timeout: float | None, retries: int) -> Iterator[Done[T]]:
        """Run `jobs` side by side, handed out in order; see `Executor`."""
        waiting = deque(Task(index, job) for index, job in enumerate(jobs))
        try:
            while waiting or self.running:
                self._hand_out(waiting, timeout)
                for worker, task in self._heard():
                    try:
                        kind, content = worker.pipe.recv()
                    except (EOFError, OSError):
                        yield from task.lose(self._discard(worker), waiting, retries)
                        continue
                    if kind == "started":
                        task.start(timeout)
                    elif kind == "progress":
                        task.fraction = content
                        self.on_progress(sum(t.fraction * t.job.trials for t in self.running.values()))
                    else:
                        if is_out_of_memory(kind, content):
                            self._discard(worker)
                        else:
                            self.idle.append(worker)
                            del self.running[worker]
                        yield task.end(kind, content)
                for worker, task in list(self.running.items()):
                    if task.is_overdue():
                        self._discard(worker)
                        yield task.overrun()
        finally:
            # After an interruption, an error, or a caller who wants no more.
            for worker in list(self.running):
                self._discard(worker)

    def close(self) -> None:
        """Kill the workers with all that they started."""
        for worker in [*self.idle, *self.running]:
            self._discard(worker)

    def _hand_out(self, waiting: deque[Task], timeout: float | None) -> None:
        while waiting and (self.idle or self.free):
            worker = self.idle.pop() if self.idle else _Worker(self.free.pop(0))
            task = waiting.popleft()
            self.running[worker] = task
            task.start(timeout, grace=START_LIMIT)
            worker.begin(task.job)

    def _heard(self) -> list[tuple[_Worker, Task]]:
        """Wait until a worker sent something, died, or is overdue; return those to read from."""
        ready = wait([worker.pipe for worker in self.running], patience(self.running.values()))
        return [(worker, task) for worker, task in self.running.items() if worker.pipe in ready]

    def _discard(self, worker: _Worker) -> str:
        self.running.pop(worker, None)
        if worker in self.idle:
            self.idle.remove(worker)
        self.free.append(worker.environment)
        return worker.end()
