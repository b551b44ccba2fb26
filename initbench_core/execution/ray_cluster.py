"""Jobs on a Ray cluster, as Ray Core tasks.

Ray gives a task its cores and GPUs and loses it with its process; what is tried again, what is overdue and what counts
is decided here, as for local workers. Each task streams two things, that it has started and how it ended, so that its
time limit does not count its time in Ray's queue.
"""

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from initbench_core.errors import UserError
from initbench_core.execution.job import Done, Job, T, failure_of
from initbench_core.execution.task import Ending, Task, attempt, is_out_of_memory, patience
from initbench_core.records.schema import Failure

# Seconds for a cluster to answer.
ANSWER_LIMIT = 30.0

# Seconds between looks at whether the cluster still has what a trial needs.
CHECK_INTERVAL = 10.0

# No statistics sent anywhere; tasks without a GPU see none.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def _serve(pickled: bytes) -> Iterator[tuple[Ending | None, Any]]:
    """Run a job in a Ray worker."""
    try:
        job = pickle.loads(pickled)
    except Exception as error:
        yield "failed", failure_of(error)
        return
    yield None, None
    ending, content = attempt(job, lambda fraction: None)
    yield ending, content
    if is_out_of_memory(ending, content):
        # What is left here may fail the next job too: the driver ends this process.
        time.sleep(ANSWER_LIMIT)


class RayExecutor:
    """Runs jobs on a Ray cluster, as many at once as fit it."""

    def __init__(self, address: str | None, *, cpus: int, gpus: float) -> None:
        """Connect to the cluster, or start one of this machine.

        Args:
            address: HOST:PORT of the cluster's head, or "auto"; None starts a cluster on this machine alone.
            cpus: cores of a trial, and its threads.
            gpus: GPUs of a trial; a fraction shares one.

        Raises:
            UserError: Ray is not installed, nobody answers, or the cluster lacks what a trial needs.
        """
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        try:
            import ray
        except ImportError:
            raise UserError("--executor ray needs the package ray: pip install 'initbench[ray]'") from None
        self.ray = ray
        self.needs = {"CPU": float(cpus), **({"GPU": gpus} if gpus else {})}
        if address is not None:
            check_answer(address)
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # The workers run this very code, whatever is installed there.
                runtime_env={"py_modules": _packages(), "env_vars": {"OMP_NUM_THREADS": str(cpus)}},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
        finally:
            # Ray puts a handler of its own in its place.
            signal.signal(signal.SIGTERM, terminate)
        # A process keeps the GPU memory it has taken: the next trial gets a new one.
        options = {"max_calls": 1} if gpus else {}
        self.serve = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, num_returns="streaming", **options)(_serve)
        try:
            self._slots()
        except UserError:
            self.close()
            raise

    def run(self, jobs: Sequence[Job[T]], *, timeout: float | None, retries: int) -> Iterator[Done[T]]:
        """Run `jobs` side by side, handed out in order; see `Executor`."""
        ray = self.ray
        waiting = deque(Task(index, job) for index, job in enumerate(jobs))
        running: dict[Any, Task] = {}
        try:
            while waiting or running:
                # Twice as many as fit: a place that becomes free finds the next task there.
                while waiting and len(running) < 2 * self._slots():
                    task = waiting.popleft()
                    running[self.serve.remote(pickle.dumps(task.job))] = task
                due = patience(running.values())
                seconds = CHECK_INTERVAL if due is None else min(due, CHECK_INTERVAL)
                ready, _ = ray.wait(list(running), timeout=seconds, fetch_local=False)
                for stream in ready:
                    task = running[stream]
                    try:
                        ending, content = ray.get(next(stream))
                    except ray.exceptions.RuntimeEnvSetupError as error:
                        raise UserError(f"the Ray cluster cannot take the code: {error}") from error
                    except ray.exceptions.OutOfMemoryError as error:
                        del running[stream]
                        yield task.fail(Failure("out_of_memory", f"Ray ended its process: {_first_line(error)}"))
                    except ray.exceptions.RayError as error:
                        del running[stream]
                        yield from task.lose(_first_line(error), waiting, retries)
                    else:
                        if ending is None:
                            task.start(timeout)
                            continue
                        del running[stream]
                        if is_out_of_memory(ending, content):
                            ray.cancel(stream, force=True)
                        yield task.end(ending, content)
                for stream, task in list(running.items()):
                    if task.is_overdue():
                        del running[stream]
                        ray.cancel(stream, force=True)
                        yield task.overrun()
        finally:
            for stream in running:
                ray.cancel(stream, force=True)

    def close(self) -> None:
        """Leave the cluster, which ends all tasks; one started here ends with them."""
        self.ray.shutdown()

    def _slots(self) -> int:
        return slots([node["Resources"] for node in self.ray.nodes() if node["Alive"]], self.needs)


def slots(machines: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """Return how many trials fit a cluster at once.

    Args:
        machines: what each machine has.
        needs: what a trial needs, on one machine: what two of them have together does not count.

    Raises:
        UserError: none fits, and Ray would wait for ever.
    """
    fitting = sum(min(int(has.get(name, 0.0) / need + 1e-9) for name, need in needs.items()) for has in machines)
    if fitting < 1:
        wants = " and ".join(f"{need:g} {name}" for name, need in needs.items())
        most = ", ".join(f"{max((has.get(name, 0.0) for has in machines), default=0.0):g} {name}" for name in needs)
        raise UserError(f"a trial wants {wants}, and no machine of the Ray cluster has that (at most {most})")
    return fitting


def check_answer(address: str) -> None:
    """Check that a Ray cluster answers: Ray itself goes on trying for minutes.

    Args:
        address: HOST:PORT or "auto".

    Raises:
        UserError: it is neither, or nobody answers in time.
    """
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or "/" in host or not port.isdecimal():
            raise UserError(f"--address {address}: give HOST:PORT of the Ray cluster's head, or auto")
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_LIMIT).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"no Ray cluster answers at {address} ({error})") from error
    # Somebody listens, or has written down that he does: whether it is Ray shows in a process that can be ended.
    connect = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    command = [sys.executable, "-c", connect, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_LIMIT)
    except subprocess.TimeoutExpired:
        raise UserError(f"no Ray cluster answers at {address} within {ANSWER_LIMIT:g} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(
            f"no Ray cluster answers at {address} ({said[-1]}); one that wants a token needs RAY_AUTH_MODE=token"
        )


def _packages() -> list[str]:
    import initbench_kernels

    return [str(Path(__file__).parents[1]), str(Path(initbench_kernels.__file__).parent)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
