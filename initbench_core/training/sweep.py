"""A sweep: every trial of an experiment that is not recorded yet, one record each."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from initbench_core.execution.job import Executor
from initbench_core.records.schema import Failure, Record, trial_key
from initbench_core.records.store import RecordFile
from initbench_core.training import checkpoint
from initbench_core.training.cell import Cell, Experiment, cells
from initbench_core.training.setting import Setting


def is_recorded(experiment: Experiment, config: Any, records: RecordFile) -> bool:
    """Tell whether `records` has the trial already, finished."""
    return records.is_done(experiment.name, dataclasses.asdict(config))


def sweep(
    experiment: Experiment,
    configs: Sequence[Any],
    setting: Setting,
    records: RecordFile,
    *,
    executor: Executor,
    checkpoints: Path | None,
    timeout: float | None = None,
    retries: int = 0,
    on_trial: Callable[[int], None] = lambda finished: None,
) -> None:
    """Run and record each of `configs` that `records` lacks; this process alone writes them.

    A cell that fails is run again trial by trial, so that only those that fail by themselves are recorded as failed.
    What the user must put right ends the sweep, with all that is recorded by then.

    Args:
        experiment: what to run.
        configs: its trials, in order.
        setting: as the user asked.
        records: where finished trials are, and go.
        executor: what runs them.
        checkpoints: folder for the checkpoints of trials in progress, each deleted once the trial is recorded; None
            keeps none.
        timeout: seconds that a trial may take; None lets it.
        retries: how often a trial is tried again whose process was lost.
        on_trial: told how many trials are finished, at first and after each.

    Raises:
        UserError: data, a checkpoint, or a configuration that cannot be built.
    """
    missing = [config for config in configs if not is_recorded(experiment, config, records)]
    finished = len(configs) - len(missing)
    on_trial(finished)

    apart: list[Cell] = []
    for together in (cells(experiment, missing, setting, records.identity), apart):
        jobs = [_with_own_files(cell, checkpoints) for cell in together]
        for done in executor.run(jobs, timeout=timeout, retries=retries):
            cell = jobs[done.index]
            if done.failure and cell.trials > 1:
                apart += cell.split()
                records.warnings.append(f"{cell.trials} trials that failed together ran apart: {done.failure.message}")
                continue
            for record in done.result or [_failed(cell, done.failure)]:
                records.append(record)
            if cell.setting.checkpoint and not done.failure:
                checkpoint.delete(cell.setting.checkpoint)
            finished += cell.trials
            on_trial(finished)
    records.finish()


def _with_own_files(cell: Cell, checkpoints: Path | None) -> Cell:
    """Give a trial that runs alone its own checkpoint and TensorBoard folder."""
    if cell.trials > 1:
        return cell
    trial = f"{cell.experiment.name}-{trial_key(cell.experiment.name, dataclasses.asdict(cell.configs[0]))}"
    tensorboard = cell.setting.tensorboard
    own = dataclasses.replace(
        cell.setting,
        checkpoint=checkpoints / f"{trial}-{cell.identity}.pt" if checkpoints else None,
        tensorboard=tensorboard / trial if tensorboard else None,
    )
    return dataclasses.replace(cell, setting=own)


def _failed(cell: Cell, failure: Failure | None) -> Record:
    (config,) = cell.configs
    return Record(cell.experiment.name, dataclasses.asdict(config), cell.identity, [], failure=failure)
