"""A job, what became of it, and what an executor promises."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from initbench_core.records.schema import Failure

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Told the finished fraction of a job.
Progress = Callable[[float], None]


class Job(Protocol[T_co]):
    """Some trials that run in one go; workers get it pickled."""

    @property
    def trials(self) -> int:
        """How many they are: the job's time limit is so many times a trial's."""

    def __call__(self, progress: Progress) -> T_co:
        """Run them."""


@dataclass(frozen=True)
class Done(Generic[T]):
    """What became of a job: its result, or why there is none.

    Attributes:
        index: which of the jobs it is.
        result: what it returned; None where it failed.
        failure: why it failed; None where it did not.
    """

    index: int
    result: T | None = None
    failure: Failure | None = None


class Executor(Protocol):
    """Runs jobs."""

    def run(self, jobs: Sequence[Job[T]], *, timeout: float | None, retries: int) -> Iterator[Done[T]]:
        """Run `jobs` and yield each once, as they end; closing the iterator ends those that still run.

        Args:
            jobs: what to run.
            timeout: seconds that a job may take per trial; None lets it.
            retries: how often a job is tried again whose process was lost.

        Raises:
            UserError: a job raised it.
        """
        ...

    def close(self) -> None:
        """End all processes."""
        ...


def failure_of(error: BaseException) -> Failure:
    """Return what to record of a job that raised `error`."""
    lines = " ".join(str(error).split())
    return Failure(
        "out_of_memory" if _is_out_of_memory(error) else "raised",
        f"{type(error).__name__}: {lines}" if lines else type(error).__name__,
        traceback="".join(traceback.format_exception(error)),
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: Python's, CUDA's (by name, for torch may not be loaded), or torch's on the CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator: can't allocate" in str(error)
