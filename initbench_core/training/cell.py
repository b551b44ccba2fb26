"""A job of a sweep: the trials of one configuration, seed by seed or trained together, and their records."""

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch._inductor.config

from initbench_core.errors import ConfigError
from initbench_core.execution.job import Progress
from initbench_core.records.schema import Emission, Measurement, Note, Outcome, Record
from initbench_core.training.seeding import seed_generators
from initbench_core.training.setting import Setting
from initbench_core.training.together import stack_size


class Experiment(Protocol):
    """What a sweep needs of an experiment: its trials, and how to run one, or several that differ only in seed."""

    name: str

    @property
    def runs_together(self) -> bool:
        """Whether there is a `run_together`."""

    def grid(self, setting: Setting) -> Sequence[Any]:
        """Return the configurations, frozen dataclasses of plain values with the seed among them."""

    def weights(self, config: Any) -> int:
        """Return how many weights a trial's network has; 0 where those of all seeds fit one stack."""

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
    """Ask torch for the same numbers every time; an operator that cannot comply warns once and goes on.

    It configures the compiler too, whose import takes a second or more: it comes with this module's, so that a worker
    has it before its trial's own time begins.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True, warn_only=True)


def cells(experiment: Experiment, configs: Sequence[Any], setting: Setting, identity: str) -> list[Cell]:
    """Group `configs` into jobs, in the order of the first of each.

    Trials are trained together where the experiment can do so; a TensorBoard log is of one training, so with one they
    are not. Seeds whose networks are too large for one stack become several jobs, as equal as can be, and this is the
    only place that says so. A job is then one stack: what is finished is recorded at once, an interruption or a lost
    worker costs one stack, a time limit is that of its trials, and no executor knows of parts of a job. It must be said
    before the job runs, so the experiment counts the weights of its networks rather than building one.
    """
    if not experiment.runs_together or setting.tensorboard:
        return [Cell(experiment, (config,), setting, identity) for config in configs]
    groups: dict[Any, list[Any]] = {}
    for config in configs:
        groups.setdefault(dataclasses.replace(config, seed=0), []).append(config)
    found = []
    for config, group in groups.items():
        jobs = math.ceil(len(group) / stack_size(experiment.weights(config), setting.device))
        size = math.ceil(len(group) / jobs)
        found += [tuple(group[start : start + size]) for start in range(0, len(group), size)]
    return [Cell(experiment, trials, setting, identity) for trials in found]
