"""A job on its way, and the attempt at it: what the executors with worker processes share."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

from initbench_core.errors import UserError
from initbench_core.execution.job import Done, Job, Progress, failure_of
from initbench_core.records.schema import Failure

# How an attempt ended: with a result, a failure, or an error that the user must resolve.
Ending = Literal["done", "failed", "refused"]


@dataclass(eq=False)
class Task:
    """A job on its way: which one, how often it was tried, how long it may run, what fraction is done."""

    index: int
    job: Job[Any]
    attempt: int = 1
    limit: float = inf
    deadline: float = inf
    fraction: float = 0.0

    def start(self, timeout: float | None, grace: float = 0.0) -> None:
        """Set the deadline: so many seconds per trial from now, and some grace."""
        if timeout is not None:
            self.limit = timeout * self.job.trials
            self.deadline = time.monotonic() + self.limit + grace

    def is_overdue(self) -> bool:
        """Tell whether the deadline is past."""
        return self.deadline <= time.monotonic()

    def end(self, ending: Ending, content: Any) -> Done[Any]:
        """Return what became of the job by what its worker says.

        Raises:
            UserError: the job raised it.
        """
        if ending == "refused":
            raise content
        return self.fail(content) if ending == "failed" else Done(self.index, content)

    def fail(self, failure: Failure) -> Done[Any]:
        """Return that the job failed."""
        return Done(self.index, failure=replace(failure, attempts=self.attempt))

    def overrun(self) -> Done[Any]:
        """Return that the job took longer than it may."""
        return self.fail(Failure("timeout", f"longer than {self.limit:g} s"))

    def lose(self, cause: str, waiting: "deque[Task]", retries: int) -> Iterable[Done[Any]]:
        """Have the job wait for another attempt after its process was lost, or return that it failed."""
        if self.attempt > retries:
            return [self.fail(Failure("crashed", f"its process was lost: {cause}"))]
        waiting.appendleft(Task(self.index, self.job, self.attempt + 1))
        return []


def patience(tasks: Iterable[Task]) -> float | None:
    """Return the seconds until the first deadline; None where there is none."""
    first = min((task.deadline for task in tasks), default=inf)
    return None if first == inf else max(0.0, first - time.monotonic())


def attempt(job: Job[Any], progress: Progress) -> tuple[Ending, Any]:
    """Run a job in a worker; return how it ended, and its result, failure or error."""
    try:
        return "done", job(progress)
    except UserError as error:
        return "refused", error
    except Exception as error:
        return "failed", failure_of(error)


def is_out_of_memory(ending: Ending, content: Any) -> bool:
    """Tell whether memory ran out: the next job deserves a new process, for this one's may be full for it too."""
    return ending == "failed" and content.reason == "out_of_memory"
