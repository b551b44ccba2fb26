"""Where trials run: how threads and GPUs are shared out, and that times are measured alone."""

from contextlib import closing

import pytest
import torch

from initbench_core.errors import UserError
from initbench_core.execution import place
from initbench_core.execution.in_process import InProcessExecutor
from initbench_core.execution.local import LocalExecutor
from initbench_core.execution.options import Options, read_jobs
from initbench_core.execution.place import Places
from initbench_core.experiments import Experiment, names


def tell(trials: float) -> None:
    """Tell nobody."""


@pytest.fixture(autouse=True)
def _no_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def open_places(options: Options) -> Places:
    return Places(options, "cpu", tell)


def test_one_job_runs_in_this_process() -> None:
    with closing(open_places(Options())) as places:
        assert places.shared is places.alone
        assert isinstance(places.alone.executor, InProcessExecutor)


def test_workers_share_the_cores_and_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "cores", lambda: 7)
    with closing(open_places(Options(jobs=3))) as places:
        executor = places.shared.executor
        assert isinstance(executor, LocalExecutor)
        assert executor.free == [{"OMP_NUM_THREADS": "2"}] * 3
        assert places.shared.environment["threads"] == 2
        assert isinstance(places.alone.executor, InProcessExecutor), "times are measured here, with all threads"
        assert places.alone.environment["threads"] == torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with closing(open_places(Options(jobs=3))) as places:
        assert places.shared.environment["threads"] == 5


def test_auto_is_a_worker_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "cores", lambda: 3)
    with closing(open_places(Options(jobs=None))) as places:
        assert isinstance(places.shared.executor, LocalExecutor)
        assert len(places.shared.executor.free) == 3
    monkeypatch.setattr(place, "cores", lambda: 1)
    with closing(open_places(Options(jobs=None))) as places:
        assert places.shared is places.alone


def test_a_time_limit_needs_a_process_that_can_be_ended() -> None:
    with closing(open_places(Options(timeout=1.0))) as places:
        executor = places.shared.executor
        assert isinstance(executor, LocalExecutor)
        assert executor.free == [{}], "one worker, with the threads of this process"


def test_workers_take_the_gpus_in_turn() -> None:
    assert [e.get("CUDA_VISIBLE_DEVICES") for e in place.worker_environments(3, 1, ["4", "6"])] == ["4", "6", "4"]
    assert [e.get("CUDA_VISIBLE_DEVICES") for e in place.worker_environments(2, 1, [])] == [None, None]


def test_jobs_are_a_number_or_auto() -> None:
    assert read_jobs("auto") is None
    assert read_jobs("3") == 3
    for text in ("0", "-1", "1.5", "", "all"):
        with pytest.raises(UserError, match="at least 1, or auto"):
            read_jobs(text)


def test_experiments_of_times_say_so() -> None:
    timed = {name for name in names() if Experiment(name).timed}
    assert timed == {name for name in names() if name.endswith("_speed")}
