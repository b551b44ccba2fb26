"""Local workers under every fault: nothing is lost, nothing runs twice, nothing is left running."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from initbench_core.errors import MissingDataError
from initbench_core.execution.in_process import InProcessExecutor
from initbench_core.execution.job import Done, Job, failure_of
from initbench_core.execution.local import LocalExecutor
from tests.initbench_core.execution.jobs import (
    Allocate,
    Die,
    Hang,
    Raise,
    Report,
    Say,
    Unpicklable,
    are_gone,
    heed_ctrl_c,
    read_pids,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    """Two workers."""
    executor = LocalExecutor([{"OMP_NUM_THREADS": "3"}] * 2, lambda trials: None)
    yield executor
    executor.close()


def run(executor: LocalExecutor, jobs: list[Job[Any]], *, timeout: float | None = None, retries: int = 1) -> list[Any]:
    """Return what became of each job, in the order of the jobs; each is told of once."""
    ended: dict[int, Done[Any]] = {}
    for done in executor.run(jobs, timeout=timeout, retries=retries):
        assert done.index not in ended
        ended[done.index] = done
    return [ended[index] for index in range(len(jobs))]


def test_results_of_all_jobs_from_two_workers_with_their_threads(executor: LocalExecutor) -> None:
    results = [done.result for done in run(executor, [Say(str(i)) for i in range(20)])]
    assert [word for word, _, _ in results] == [str(i) for i in range(20)]
    assert {threads for _, _, threads in results} == {"3"}
    assert 1 <= len({pid for _, pid, _ in results} - {os.getpid()}) <= 2


def test_workers_live_on_for_the_next_jobs(executor: LocalExecutor) -> None:
    first = {done.result[1] for done in run(executor, [Say("a")] * 8)}
    assert {done.result[1] for done in run(executor, [Say("b")] * 8)} <= first


def test_a_lost_worker_costs_its_job_one_attempt_and_the_others_nothing(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    done = run(executor, [Say("a"), Die(1, tmp_path / "x"), *[Say("b")] * 6])
    assert done[1].result == 2
    assert all(d.failure is None for d in done)


def test_a_job_whose_worker_always_dies_is_given_up(executor: LocalExecutor, tmp_path: Path) -> None:
    done = run(executor, [Die(99, tmp_path / "x"), Say("a"), Say("b")], retries=2)
    assert done[0].failure.reason == "crashed"
    assert done[0].failure.attempts == 3
    assert "SIGKILL" in done[0].failure.message
    assert (tmp_path / "x").read_text() == "xxx"
    assert [d.result[0] for d in done[1:]] == ["a", "b"]


@pytest.mark.parametrize("keeps_the_lock", [False, True])
def test_a_job_that_hangs_is_killed_with_all_that_it_started(
    executor: LocalExecutor, tmp_path: Path, keeps_the_lock: bool
) -> None:
    done = run(executor, [Hang(tmp_path / "pids", keeps_the_lock), *[Say("a")] * 4], timeout=1.0)
    assert done[0].failure.reason == "timeout"
    assert done[0].failure.message == "longer than 1 s"
    assert all(d.result[0] == "a" for d in done[1:])
    assert are_gone(read_pids(tmp_path / "pids"))


def test_the_limit_is_a_trials(executor: LocalExecutor) -> None:
    """1.2 s for four trials are within 0.5 s each."""
    assert run(executor, [Report()], timeout=0.5)[0].result == "reported"


def test_what_raises_fails_with_its_traceback_and_its_worker_goes_on(executor: LocalExecutor) -> None:
    done = run(executor, [Raise(), Say("a")])
    assert done[0].failure.reason == "raised"
    assert done[0].failure.message == "ValueError: a number is wrong"
    assert "jobs.py" in done[0].failure.traceback
    assert done[1].result[0] == "a"


def test_out_of_memory_is_recorded_and_the_next_job_gets_a_new_process(tmp_path: Path) -> None:
    executor = LocalExecutor([{}], lambda trials: None)
    before, failed, after = run(executor, [Say("a"), Allocate(), Say("b")])
    executor.close()
    assert failed.failure.reason == "out_of_memory"
    assert before.result[1] != after.result[1]


def test_torchs_errors_of_memory_are_known() -> None:
    assert failure_of(torch.OutOfMemoryError("CUDA out of memory")).reason == "out_of_memory"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert failure_of(caught.value).reason == "out_of_memory"
    assert failure_of(RuntimeError("shapes differ")).reason == "raised"


def test_a_result_that_cannot_be_sent_is_a_failure(executor: LocalExecutor) -> None:
    done = run(executor, [Unpicklable(), Say("a")])
    assert done[0].failure.reason == "raised"
    assert done[1].result[0] == "a"


def test_what_the_user_must_resolve_ends_the_run_and_the_other_jobs(executor: LocalExecutor, tmp_path: Path) -> None:
    jobs = executor.run([Hang(tmp_path / "pids"), Say("a"), Raise(is_for_the_user=True)], timeout=None, retries=0)
    assert next(jobs).result
    read_pids(tmp_path / "pids")
    with pytest.raises(MissingDataError, match="fetch it"):
        next(jobs)
    assert are_gone(read_pids(tmp_path / "pids"))
    assert run(executor, [Say("b")])[0].result[0] == "b"


def test_progress_is_the_sum_over_the_running_trials() -> None:
    told: list[float] = []
    executor = LocalExecutor([{}], told.append)
    run(executor, [Report()])
    executor.close()
    assert told == [1.0, 2.0]


def test_this_process_runs_jobs_in_order_and_records_what_raises() -> None:
    told: list[float] = []
    executor = InProcessExecutor(told.append)
    done = list(executor.run([Say("a"), Raise(), Report()], timeout=None, retries=0))
    assert done[0].result == ("a", os.getpid(), os.environ.get("OMP_NUM_THREADS"))
    assert done[1].failure is not None
    assert done[1].failure.reason == "raised"
    assert done[2].result == "reported"
    assert told == [1.0, 2.0]
    with pytest.raises(MissingDataError):
        list(executor.run([Raise(is_for_the_user=True)], timeout=None, retries=0))


DRIVER = """
import sys
from pathlib import Path
from initbench_core.execution.local import LocalExecutor
from tests.initbench_core.execution.jobs import Hang
try:
    list(LocalExecutor([{}], print).run([Hang(Path(sys.argv[1]))], timeout=None, retries=0))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_end_with_their_driver_however_it_ends(tmp_path: Path, number: int, code: int) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "pids")]
    driver = subprocess.Popen(command, env=environment, preexec_fn=heed_ctrl_c)
    pids = read_pids(tmp_path / "pids")
    driver.send_signal(number)
    assert driver.wait(300) == code
    assert are_gone(pids)
