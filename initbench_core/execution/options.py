"""How the user wants trials to be run."""

import os
from dataclasses import dataclass

from initbench_core.errors import UserError

EXECUTORS = ("local", "ray")
LEAST_GPU = 0.0001


@dataclass(frozen=True)
class Options:
    """How to run trials.

    Attributes:
        jobs: worker processes on this machine; 1 runs trials in this process, None takes one per core, or per GPU
            where trials run on GPUs.
        timeout: seconds that a trial may take; None lets it.
        retries: how often a trial is tried again whose process was lost.
        executor: "local", or "ray" for a Ray cluster.
        address: of the Ray cluster, as HOST:PORT or "auto"; None starts one on this machine.
        cpus_per_trial: cores of a trial on Ray, and its threads.
        gpus_per_trial: GPUs of a trial on Ray; a fraction of one, not below 0.0001, shares it.
    """

    jobs: int | None = 1
    timeout: float | None = None
    retries: int = 1
    executor: str = "local"
    address: str | None = None
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0.0

    def __post_init__(self) -> None:
        """Check what fits together.

        Raises:
            UserError: something does not.
        """
        if self.executor not in EXECUTORS:
            raise UserError(f"no executor {self.executor!r}: choose from {', '.join(EXECUTORS)}")
        if self.executor == "ray" and self.jobs != 1:
            raise UserError("--jobs is of --executor local: Ray runs as many trials as fit its cluster")
        if self.executor == "local" and (self.address or self.gpus_per_trial or self.cpus_per_trial != 1):
            raise UserError("--address, --cpus-per-trial and --gpus-per-trial need --executor ray")
        gpus = self.gpus_per_trial
        # Ray's own rules: it divides one GPU, into at most 10,000 parts.
        if gpus and not (LEAST_GPU <= gpus <= 1 or gpus.is_integer()):
            raise UserError(f"--gpus-per-trial {gpus:g}: give a fraction from {LEAST_GPU} to 1, or a whole number")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_jobs(text: str) -> int | None:
    """Return the number of workers that a user asks for; None for "auto".

    Raises:
        UserError: it is neither.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--jobs {text}: give a number of at least 1, or auto")
    return int(text)
