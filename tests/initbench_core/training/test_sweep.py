"""The sweep: what becomes one job, what is recorded of each trial, and what the next run does."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from initbench_core.errors import ConfigError
from initbench_core.execution.in_process import InProcessExecutor
from initbench_core.execution.job import Executor
from initbench_core.execution.local import LocalExecutor
from initbench_core.records.schema import Record
from initbench_core.records.store import RecordFile, read
from initbench_core.training.setting import Setting
from initbench_core.training.sweep import cells, sweep
from tests.initbench_core.training.fake_experiments import Config, Draws, DrawsTogether

SETTING = Setting(seeds=4)


@pytest.fixture(autouse=True)
def _deterministic_again() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def run(
    folder: Path, experiment: Draws, configs: list[Config], executor: Executor | None = None, retries: int = 1
) -> RecordFile:
    """Sweep into a folder and return its records, opened anew."""
    path, manifest = folder / f"{experiment.name}-quick-cpu.jsonl", {"trials": len(configs)}
    records = RecordFile(path, "here", manifest)
    executor = executor or InProcessExecutor(lambda trials: None)
    sweep(experiment, configs, SETTING, records, executor=executor, checkpoints=None, retries=retries)
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
    """One of the trials kills its worker at first: all are recorded once, with the numbers of a single process."""
    configs = [*Draws().grid(SETTING), Config("killed", 7), *[Config("well", seed) for seed in range(8, 14)]]
    (folder / "workers").mkdir()
    records = run(folder / "workers", Draws(folder / "notes"), configs, executor)
    assert (folder / "notes").read_text() == "died"
    keys = [record.key for record in recorded(records)]
    assert records.path.read_bytes().count(b"\n") == len(keys) == len(set(keys)) == len(configs)
    assert draws(records) == draws(run(folder, Draws(folder / "notes"), configs))


def test_a_worker_killed_in_mid_trial_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    executor = LocalExecutor([{"OMP_NUM_THREADS": "1"}] * 2, lambda trials: None)
    check_that_a_kill_costs_nothing(executor, tmp_path)
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
