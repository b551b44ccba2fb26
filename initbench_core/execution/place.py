"""Where trials run: an executor, and what its processes run on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from initbench_core import environment
from initbench_core.errors import UserError
from initbench_core.execution.in_process import InProcessExecutor
from initbench_core.execution.job import Executor, Progress
from initbench_core.execution.local import LocalExecutor
from initbench_core.execution.options import Options, cores


@dataclass(frozen=True)
class Survey:
    """A job that tells what it runs on."""

    device: str
    trials: int = 1

    def __call__(self, progress: Progress) -> tuple[str, str, dict[str, Any]]:
        """Return the device, the device as part of a file name, and the environment."""
        device = environment.choose_device(self.device)
        return device, environment.device_slug(device), environment.describe(device)


@dataclass(frozen=True)
class Place:
    """Where trials run.

    Attributes:
        executor: what runs them.
        device: "cpu" or "cuda".
        device_slug: the device as part of a file name.
        environment: what they run on, as `environment.describe` returns it.
    """

    executor: Executor
    device: str
    device_slug: str
    environment: dict[str, Any]


class Places:
    """The two places of a sweep, each opened when it is first asked for."""

    def __init__(self, options: Options, device: str, on_progress: Progress) -> None:
        """Open nothing yet.

        Args:
            options: how trials shall run.
            device: "auto", "cpu" or "cuda".
            on_progress: told how many of the running trials are done, fractions added up.
        """
        self.options = options
        self.device = device
        self.on_progress = on_progress
        self.executors: list[Executor] = []

    def close(self) -> None:
        """End all processes."""
        for executor in self.executors:
            executor.close()

    @cached_property
    def alone(self) -> Place:
        """One trial at a time on this machine with all threads: where times are measured."""
        executor: Executor = InProcessExecutor(self.on_progress)
        if self.options.timeout is not None:
            # What hangs can be ended only from another process.
            executor = LocalExecutor([{}], self.on_progress)
        return self._open(executor, *Survey(self.device)(self.on_progress))

    @cached_property
    def shared(self) -> Place:
        """As many trials beside each other as asked for."""
        if self.options.executor == "ray":
            return self._cluster()
        device, slug, described = Survey(self.device)(self.on_progress)
        gpus = _gpus() if device == "cuda" else []
        # Small networks keep a core busy, and every process takes its part of a GPU's memory before the first tensor.
        jobs = self.options.jobs or len(gpus) or cores()
        if jobs == 1:
            return self.alone
        threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, cores() // jobs)
        workers = worker_environments(jobs, threads, gpus)
        return self._open(LocalExecutor(workers, self.on_progress), device, slug, {**described, "threads": threads})

    def _cluster(self) -> Place:
        from initbench_core.execution.ray_cluster import RayExecutor

        options = self.options
        gpus = options.gpus_per_trial or float(self.device == "cuda")
        if gpus and self.device == "cpu":
            raise UserError("--device cpu needs no GPUs: leave --gpus-per-trial out")
        executor = RayExecutor(options.address, cpus=options.cpus_per_trial, gpus=gpus)
        self.executors.append(executor)
        # The cluster's machines may be of another kind than this one.
        (done,) = executor.run([Survey("cuda" if gpus else "cpu")], timeout=None, retries=options.retries)
        if done.result is None:
            raise UserError(f"the Ray cluster cannot run a trial: {done.failure.message if done.failure else ''}")
        device, slug, described = done.result
        # The code came from here, without its history.
        own = environment.describe("cpu")
        return Place(executor, device, slug, {**described, "commit": own["commit"], "dirty": own["dirty"]})

    def _open(self, executor: Executor, device: str, slug: str, described: dict[str, Any]) -> Place:
        self.executors.append(executor)
        return Place(executor, device, slug, described)


def _gpus() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def worker_environments(jobs: int, threads: int, gpus: list[str]) -> list[Mapping[str, str]]:
    """Return each worker's variables: its threads, and its share of the GPUs in turn."""
    own = {"OMP_NUM_THREADS": str(threads)}
    if not gpus:
        return [own] * jobs
    return [own | {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(jobs)]
