"""A sweep: every trial of an experiment that is not recorded yet, one record each."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from initbench_core.errors import ConfigError
from initbench_core.execution.job import Executor, Progress
from initbench_core.records.schema import Emission, Failure, Measurement, Note, Outcome, Record, trial_key
from initbench_core.records.store import RecordFile
from initbench_core.training import checkpoint
from initbench_core.training.seeding import seed_generators
from initbench_core.training.setting import Setting


class Experiment(Protocol):
    """What a sweep needs of an experiment: its trials, and how to run one, or several that differ only in seed."""

    name: str

    @property
    def runs_together(self) -> bool:
        """Whether there is a `run_together`."""

    def grid(self, setting: Setting) -> Sequence[Any]:
        """Return the configurations, frozen dataclasses of plain values with the seed among them."""

    def run(self, config: Any, setting: Setting) -> Iterator[Emission]:
        """Run one trial."""

    def run_together(self, configs: Sequence[Any], setting: Setting) -> Sequence[Iterable[Emission]]:
        """Run trials that differ in nothing but their seed; entry i is what `run` would yield for configuration i."""


@dataclass(frozen=True)
class Cell:
    """Trials of one job: configurations that differ in nothing but their seed, or a single one."""

    experiment: Experiment
    configs: tuple[Any, ...]
    setting: Setting
    identity: str

    @property
    def trials(self) -> int:
        """How many trials it is."""
        return len(self.configs)

    def __call__(self, progress: Progress) -> list[Record]:
        """Run the trials and return their records, in order; each counts an equal share of the time.

        Raises:
            ConfigError: the configuration cannot be built; the message names it.
        """
        try:
            return self._records(progress)
        except ConfigError as error:
            fields = dataclasses.asdict(self.configs[0])
            named = ", ".join(f"{name}={value!r}" for name, value in fields.items() if name != "seed")
            raise ConfigError(f"configuration {named}: {error}") from error

    def _records(self, progress: Progress) -> list[Record]:
        be_deterministic()
        setting = dataclasses.replace(self.setting, progress=progress)
        if self.trials == 1:
            return [run_trial(self.experiment, self.configs[0], setting, self.identity)]
        started = time.perf_counter()
        together = self.experiment.run_together(self.configs, setting)
        records = [
            _record(self.experiment, config, self.identity, emissions)
            for config, emissions in zip(self.configs, together, strict=True)
        ]
        share = (time.perf_counter() - started) / self.trials
        return [dataclasses.replace(record, seconds=share) for record in records]

    def split(self) -> "list[Cell]":
        """Return a cell for each of the trials."""
        return [dataclasses.replace(self, configs=(config,)) for config in self.configs]


def run_trial(experiment: Experiment, config: Any, setting: Setting, identity: str) -> Record:
    """Run one trial and return its record; torch's generators are seeded with the configuration's seed first."""
    seed_generators(getattr(config, "seed", 0))
    started = time.perf_counter()
    record = _record(experiment, config, identity, experiment.run(config, setting))
    return dataclasses.replace(record, seconds=time.perf_counter() - started)


def _record(experiment: Experiment, config: Any, identity: str, emissions: Iterable[Emission]) -> Record:
    measurements: list[Measurement] = []
    notes: list[str] = []
    outcome: Outcome | None = None
    for emission in emissions:
        if isinstance(emission, Measurement):
            measurements.append(emission)
        elif isinstance(emission, Note):
            notes.append(emission.text)
        else:
            outcome = emission
    return Record(experiment.name, dataclasses.asdict(config), identity, measurements, outcome, notes=notes)


def be_deterministic() -> None:
    """Ask torch for the same numbers every time; an operator that cannot comply warns once and goes on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True, warn_only=True)


def is_recorded(experiment: Experiment, config: Any, records: RecordFile) -> bool:
    """Tell whether `records` has the trial already, finished."""
    return records.is_done(experiment.name, dataclasses.asdict(config))


def cells(experiment: Experiment, configs: Sequence[Any], setting: Setting, identity: str) -> list[Cell]:
    """Group `configs` into jobs, in the order of the first of each.

    Trials are trained together where the experiment can do so; a TensorBoard log is of one training, so with one they
    are not.
    """
    if not experiment.runs_together or setting.tensorboard:
        return [Cell(experiment, (config,), setting, identity) for config in configs]
    groups: dict[Any, list[Any]] = {}
    for config in configs:
        groups.setdefault(dataclasses.replace(config, seed=0), []).append(config)
    return [Cell(experiment, tuple(group), setting, identity) for group in groups.values()]


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
