"""Jobs in this very process, one after the other."""

from collections.abc import Iterator, Sequence

from initbench_core.errors import UserError
from initbench_core.execution.job import Done, Job, Progress, T, failure_of


class InProcessExecutor:
    """Runs jobs here: nothing to start, all threads, but no protection from one that hangs or crashes."""

    def __init__(self, on_progress: Progress) -> None:
        """Tell `on_progress` how many of a job's trials are finished, as a fraction of a trial."""
        self.on_progress = on_progress

    def run(self, jobs: Sequence[Job[T]], *, timeout: float | None, retries: int) -> Iterator[Done[T]]:
        """Run `jobs` in order; see `Executor`. Time limits cannot be kept, and no process is lost but this one."""
        for index, job in enumerate(jobs):
            yield self._run(index, job)

    def _run(self, index: int, job: Job[T]) -> Done[T]:
        try:
            return Done(index, job(lambda fraction: self.on_progress(fraction * job.trials)))
        except UserError:
            raise
        except Exception as error:
            return Done(index, failure=failure_of(error))

    def close(self) -> None:
        """There is nothing to end."""
