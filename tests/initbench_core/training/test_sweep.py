"""The sweep: what becomes one job, what is recorded of each trial, and what the next run does."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from initbench_core.errors import ConfigError
from initbench_core.execution.in_process import InProcessExecutor
from initbench_core.execution.job import Executor
from initbench_core.execution.local import LocalExecutor
from initbench_core.records.schema import Emission, Record
from initbench_core.records.store import RecordFile, read
from initbench_core.training.cell import cells
from initbench_core.training.setting import Setting
from initbench_core.training.sweep import sweep
from initbench_core.training.together import STACK_LIMIT
from tests.cli.command import ENVIRONMENT
from tests.initbench_core.training.fake_experiments import Config, Draws, DrawsInPairs, DrawsTogether

SETTING = Setting(seeds=4)
LIMIT = 4.0  # seconds for a trial that takes none


@pytest.fixture(autouse=True)
def _deterministic_again() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def run(
    folder: Path,
    experiment: Draws,
    configs: list[Config],
    executor: Executor | None = None,
    *,
    retries: int = 1,
    timeout: float | None = None,
) -> RecordFile:
    """Sweep into a folder and return its records, opened anew."""
    path, manifest = folder / f"{experiment.name}-quick-cpu.jsonl", {"trials": len(configs)}
    records = RecordFile(path, "here", manifest)
    executor = executor or InProcessExecutor(lambda trials: None)
    sweep(experiment, configs, SETTING, records, executor=executor, checkpoints=None, timeout=timeout, retries=retries)
    return records


def recorded(records: RecordFile) -> list[Record]:
    return read(records.path).records


def draws(records: RecordFile) -> dict[object, float]:
    return {record.config["seed"]: record.measurements[0].values[0] for record in recorded(records)}


def test_cells_are_configurations_that_differ_in_nothing_but_seed() -> None:
    configs = [Config("well", 0), Config("badly", 0), Config("well", 1), Config("badly", 1)]
    together = cells(DrawsTogether(), configs, SETTING, "here")
    assert [cell.configs for cell in together] == [(configs[0], configs[2]), (configs[1], configs[3])]
    one_by_one = [(config,) for config in configs]
    assert [cell.configs for cell in cells(Draws(), configs, SETTING, "here")] == one_by_one
    logged = replace(SETTING, tensorboard=Path("logs"))
    assert [cell.configs for cell in cells(DrawsTogether(), configs, logged, "here")] == one_by_one


@pytest.mark.parametrize(("seeds", "stacks"), [(1, [1]), (2, [2]), (5, [2, 2, 1]), (8, [2, 2, 2, 2])])
def test_seeds_whose_networks_are_too_large_for_one_stack_are_several_jobs(seeds: int, stacks: list[int]) -> None:
    configs = [Config("well", seed) for seed in range(seeds)]
    jobs = cells(DrawsInPairs(), configs, SETTING, "here")
    assert [job.trials for job in jobs] == stacks
    assert [config for job in jobs for config in job.configs] == configs


def test_jobs_are_as_equal_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DrawsInPairs, "weights", lambda self, config: STACK_LIMIT["cpu"] // 4 // 9)
    configs = [Config("well", seed) for seed in range(20)]
    assert [job.trials for job in cells(DrawsInPairs(), configs, SETTING, "here")] == [7, 7, 6]
    monkeypatch.setattr(DrawsInPairs, "weights", lambda self, config: STACK_LIMIT["cpu"])
    assert [job.trials for job in cells(DrawsInPairs(), configs, SETTING, "here")] == [1] * 20


class Interrupted(DrawsInPairs):
    """Ctrl-C in the stack of seed 3; keeps the seeds of the stacks that ran to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.presses = 1
        self.stacks: list[list[int]] = []

    def run_together(self, configs: Sequence[Config], setting: Setting) -> Sequence[Iterator[Emission]]:
        """Draw, or not."""
        seeds = [config.seed for config in configs]
        if 3 in seeds and self.presses:
            self.presses -= 1
            raise KeyboardInterrupt
        self.stacks.append(seeds)
        return super().run_together(configs, setting)


def test_an_interruption_costs_the_stack_under_way_and_no_other(tmp_path: Path) -> None:
    experiment, configs = Interrupted(), [Config("well", seed) for seed in range(6)]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, experiment, configs)
    kept = (tmp_path / "draws-quick-cpu.jsonl").read_bytes()
    assert kept.count(b"\n") == 2
    records = run(tmp_path, experiment, configs)
    assert experiment.stacks == [[0, 1], [2, 3], [4, 5]], "what was finished has not run again"
    assert records.path.read_bytes().startswith(kept)
    assert sorted(draws(records)) == [0, 1, 2, 3, 4, 5]
    assert records.path.read_bytes().count(b"\n") == 6


def test_the_time_limit_of_a_stack_is_that_of_its_trials(tmp_path: Path) -> None:
    """Of three pairs the one that hangs ends after two trials' time, and in it the one trial that hangs fails."""
    executor = LocalExecutor([{"OMP_NUM_THREADS": "1"}] * 2, lambda trials: None)
    configs = [Config("never", seed) for seed in range(6)]
    records = run(tmp_path, DrawsInPairs(), configs, executor, timeout=LIMIT)
    executor.close()
    assert records.warnings == [f"2 trials that failed together ran apart: longer than {2 * LIMIT:g} s"]
    assert sorted(draws(records)) == [0, 1, 2, 4, 5]
    (failed,) = read(records.path).failed
    assert failed.failure is not None
    assert (failed.config["seed"], failed.failure.reason) == (3, "timeout")
    assert failed.failure.message == f"longer than {LIMIT:g} s"
    assert records.path.read_bytes().count(b"\n") == 6


FRESH = """
import sys
from initbench_core.training import cell
before = set(sys.modules)
cell.be_deterministic()
print(*sorted(set(sys.modules) - before))
"""


def test_a_trials_time_begins_after_the_imports() -> None:
    """A worker gets a cell: what comes with that is imported before the trial's own time, the rest is not."""
    done = subprocess.run([sys.executable, "-c", FRESH], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_trials_that_run_together_have_a_record_each_and_the_same_numbers(tmp_path: Path) -> None:
    configs = list(Draws().grid(SETTING))
    (tmp_path / "apart").mkdir()
    apart = run(tmp_path / "apart", Draws(), configs)
    (tmp_path / "together").mkdir()
    together = run(tmp_path / "together", DrawsTogether(), configs)
    assert draws(together) == draws(apart)
    assert len(set(draws(apart).values())) == 4
    assert {record.outcome.name for record in recorded(together) if record.outcome} == {"trained"}


def test_a_cell_that_fails_is_run_trial_by_trial(tmp_path: Path) -> None:
    configs = [Config("well", seed) for seed in (12, 13, 14)]
    records = run(tmp_path, DrawsTogether(), configs)
    assert sorted(draws(records)) == [12, 13, 14]
    assert records.warnings == ["3 trials that failed together ran apart: ValueError: cannot stack seed 13"]


def test_a_trial_that_raises_fails_alone_and_is_tried_again(tmp_path: Path) -> None:
    configs = [Config("well", 0), Config("badly", 1), Config("well", 2)]
    records = run(tmp_path, Draws(), configs)
    assert sorted(draws(records)) == [0, 2]
    (failed,) = read(records.path).failed
    assert failed.failure is not None
    assert (failed.failure.reason, failed.failure.message) == ("raised", "ValueError: a layer of width 0")
    before = records.path.read_bytes()
    again = run(tmp_path, Draws(), configs)
    after = again.path.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == before.count(b"\n") + 1, "what has finished does not run again"


def check_that_a_kill_costs_nothing(executor: Executor, folder: Path) -> None:
    """One of the trials kills its worker at first: all are recorded once, with the numbers of a single process.

    Alone, and in a stack: there the other stacks of its cell are jobs of their own.
    """
    configs = [*Draws().grid(SETTING), *[Config("killed", seed) for seed in range(7, 12)]]
    for experiment in (Draws, DrawsInPairs):
        apart = folder / experiment.__name__
        (apart / "workers").mkdir(parents=True)
        records = run(apart / "workers", experiment(apart / "notes"), configs, executor)
        assert (apart / "notes").read_text() == "died"
        assert not records.warnings
        keys = [record.key for record in recorded(records)]
        assert records.path.read_bytes().count(b"\n") == len(keys) == len(set(keys)) == len(configs)
        assert draws(records) == draws(run(apart, Draws(apart / "notes"), configs))


def test_a_worker_killed_in_mid_trial_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    executor = LocalExecutor([{"OMP_NUM_THREADS": "1"}] * 2, lambda trials: None)
    check_that_a_kill_costs_nothing(executor, tmp_path)
    executor.close()


def check_that_failures_are_recorded_with_their_reasons(executor: Executor, folder: Path) -> None:
    """And the sweep goes on."""
    ends = ("well", "badly", "hungry", "never", "lost", "well")
    configs = [Config(end, seed) for seed, end in enumerate(ends)]
    records = run(folder, Draws(), configs, executor, timeout=LIMIT, retries=1)
    content = read(records.path)
    assert sorted(record.config["seed"] for record in content.records) == [0, 5]
    failures = {record.config["ends"]: record.failure for record in content.failed}
    assert {end: (failure.reason, failure.attempts) for end, failure in failures.items() if failure} == {
        "badly": ("raised", 1), "hungry": ("out_of_memory", 1), "never": ("timeout", 1), "lost": ("crashed", 2)
    }  # fmt: skip
    assert records.path.read_bytes().count(b"\n") == len(configs)
    assert all(failure and failure.message for failure in failures.values())


def test_failures_are_recorded_with_their_reasons(tmp_path: Path) -> None:
    executor = LocalExecutor([{"OMP_NUM_THREADS": "1"}] * 2, lambda trials: None)
    check_that_failures_are_recorded_with_their_reasons(executor, tmp_path)
    executor.close()


def check_that_an_unbuildable_configuration_ends_the_sweep(executor: Executor, folder: Path) -> None:
    """With one line that names it, and no record of it; what was recorded before stays."""
    good, bad = [Config("well", 0)], [Config("unbuildable", 1), Config("unbuildable", 2)]
    run(folder, Draws(), good, executor)
    for experiment in (Draws(), DrawsTogether()):
        with pytest.raises(ConfigError, match=r"^configuration ends='unbuildable': unknown initializer 'ones'"):
            run(folder, experiment, [*good, *bad], executor)
    content = read(folder / "draws-quick-cpu.jsonl")
    assert [record.config["seed"] for record in content.records] == [0]
    assert not content.failed


def test_a_configuration_that_cannot_be_built_ends_the_sweep(tmp_path: Path) -> None:
    check_that_an_unbuildable_configuration_ends_the_sweep(InProcessExecutor(lambda trials: None), tmp_path)


def test_a_configuration_that_cannot_be_built_ends_the_sweep_in_workers(tmp_path: Path) -> None:
    executor = LocalExecutor([{"OMP_NUM_THREADS": "1"}] * 2, lambda trials: None)
    check_that_an_unbuildable_configuration_ends_the_sweep(executor, tmp_path)
    executor.close()
