"""Jobs in this very process, one after the other."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from initbench_core.execution.job import Done, Job, Progress, T
from initbench_core.execution.task import Task, attempt


class InProcessExecutor:
    """Runs jobs here: nothing to start, all threads, but no protection from one that hangs or crashes."""

    def __init__(self, on_progress: Progress) -> None:
        """Tell `on_progress` how many of a job's trials are finished, as a fraction of a trial."""
        self.on_progress = on_progress

    def run(self, jobs: Sequence[Job[T]], *, timeout: float | None, retries: int) -> Iterator[Done[T]]:
        """Run `jobs` in order; see `Executor`. Time limits cannot be kept, and no process is lost but this one."""
        for index, job in enumerate(jobs):
            yield Task(index, job).end(*attempt(job, partial(self._tell, job)))

    def _tell(self, job: Job[Any], fraction: float) -> None:
        self.on_progress(fraction * job.trials)

    def close(self) -> None:
        """There is nothing to end."""
