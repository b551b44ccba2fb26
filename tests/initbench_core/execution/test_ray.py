"""A Ray cluster under faults: nothing is lost, nothing is recorded twice, nothing waits for ever."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from initbench_core import environment
from initbench_core.errors import MissingDataError, UserError
from initbench_core.execution import ray_cluster
from initbench_core.execution.job import Done
from initbench_core.execution.options import Options
from initbench_core.execution.place import Survey
from initbench_core.execution.ray_cluster import RayExecutor, check_answer, slots
from initbench_core.experiments import Experiment
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.store import read
from initbench_core.runner import run_experiments
from tests.initbench_core.execution.jobs import Allocate, Die, Hang, Raise, Say, are_gone, read_pids
from tests.initbench_core.training.test_sweep import (
    check_that_a_kill_costs_nothing,
    check_that_an_unbuildable_configuration_ends_the_sweep,
    check_that_failures_are_recorded_with_their_reasons,
)

pytest.importorskip("ray")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    """A cluster of this machine; it takes ten seconds to start, so all tests share it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'kernels'}")
        executor = RayExecutor(None, cpus=1, gpus=0)
        yield executor
        executor.close()


def test_faults_cost_their_own_job_alone(executor: RayExecutor, tmp_path: Path) -> None:
    jobs = [
        Say("a"),
        Die(1, tmp_path / "once"),
        Die(99, tmp_path / "always"),
        Hang(tmp_path / "pids"),
        Raise(),
        Allocate(),
        *[Say("b")] * 4,
    ]
    ended: dict[int, Done[object]] = {}
    for done in executor.run(jobs, timeout=2.0, retries=1):
        assert done.index not in ended
        ended[done.index] = done
    assert sorted(ended) == list(range(len(jobs)))
    reasons = {index: done.failure.reason for index, done in ended.items() if done.failure}
    assert reasons == {2: "crashed", 3: "timeout", 4: "raised", 5: "out_of_memory"}
    assert ended[1].result == 2
    assert (tmp_path / "always").read_text() == "xx"
    assert are_gone(read_pids(tmp_path / "pids"))
    said = [done.result for done in ended.values() if isinstance(done.result, tuple)]
    assert os.getpid() not in {pid for _, pid, _ in said}
    assert {threads for _, _, threads in said} == {"1"}


def test_a_worker_killed_in_mid_trial_loses_nothing_and_repeats_nothing(executor: RayExecutor, tmp_path: Path) -> None:
    check_that_a_kill_costs_nothing(executor, tmp_path)


def test_failures_are_recorded_with_their_reasons(executor: RayExecutor, tmp_path: Path) -> None:
    check_that_failures_are_recorded_with_their_reasons(executor, tmp_path)


def test_a_configuration_that_cannot_be_built_ends_the_sweep(executor: RayExecutor, tmp_path: Path) -> None:
    check_that_an_unbuildable_configuration_ends_the_sweep(executor, tmp_path)


def test_what_the_user_must_resolve_ends_the_run_and_the_other_jobs(executor: RayExecutor, tmp_path: Path) -> None:
    jobs = executor.run([Hang(tmp_path / "pids"), Raise(is_for_the_user=True)], timeout=None, retries=0)
    with pytest.raises(MissingDataError, match="fetch it"):
        list(jobs)
    assert not (tmp_path / "pids").exists() or are_gone(read_pids(tmp_path / "pids"))


def test_a_machine_of_the_cluster_says_what_it_is(executor: RayExecutor) -> None:
    (done,) = executor.run([Survey("cpu")], timeout=None, retries=0)
    assert done.result is not None
    device, slug, described = done.result
    assert (device, slug, described["threads"]) == ("cpu", "cpu", 1)


def test_a_run_on_the_cluster(executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line does, on the cluster that is there already."""
    monkeypatch.setattr(ray_cluster, "RayExecutor", lambda address, *, cpus, gpus: executor)
    with monkeypatch.context() as patched:
        patched.setattr(executor, "close", lambda: None)
        options = Options(executor="ray", jobs=1)
        run_experiments(
            [Experiment("overflow")], profile="smoke", device="auto", seeds=1, out=tmp_path, options=options
        )
    folder, run = ResultsFolder(tmp_path), RunName("overflow", "smoke", "cpu")
    assert folder.manifest(run)["finished"] is True
    assert folder.manifest(run)["environment"]["commit"] == environment.describe("cpu")["commit"]
    assert len(read(folder.records(run)).records) == 8
    assert not folder.checkpoints.exists()


def test_trials_that_fit_no_machine_are_refused() -> None:
    machines = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}]
    assert slots(machines, {"CPU": 2.0}) == 6
    assert slots(machines, {"CPU": 1.0, "GPU": 0.25}) == 4
    assert slots(machines, {"CPU": 1.0, "GPU": 0.1}) == 4
    with pytest.raises(UserError, match=r"wants 6 CPU and 1 GPU, and no machine .* \(at most 8 CPU, 1 GPU\)"):
        slots(machines, {"CPU": 6.0, "GPU": 1.0})
    with pytest.raises(UserError, match="at most 0 CPU"):
        slots([], {"CPU": 1.0})


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
        ("nosuchhost.invalid:6379", "no Ray cluster answers at nosuchhost.invalid:6379"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("ray://127.0.0.1:10001", "give HOST:PORT"),
        ("nowhere", "give HOST:PORT"),
        ("", "give HOST:PORT"),
    ],
)
def test_an_address_nobody_answers(address: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_answer(address)


def test_an_address_where_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "ANSWER_LIMIT", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(UserError, match="within 4 s"):
        check_answer(f"127.0.0.1:{mute.getsockname()[1]}")


def test_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'initbench\[ray\]'"):
        RayExecutor(None, cpus=1, gpus=0)
