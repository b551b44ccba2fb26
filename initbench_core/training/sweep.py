"""A sweep: every trial of an experiment that is not recorded yet, one record each."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from initbench_core.records.schema import Emission, Measurement, Note, Outcome, Record, trial_key
from initbench_core.records.store import RecordFile
from initbench_core.training import checkpoint
from initbench_core.training.seeding import seed_generators
from initbench_core.training.setting import Setting


class Experiment(Protocol):
    """What a sweep needs of an experiment: its trials, and how to run one."""

    name: str

    def grid(self, setting: Setting) -> Sequence[Any]:
        """Return the configurations, frozen dataclasses of plain values with the seed among them."""

    def run(self, config: Any, setting: Setting) -> Iterator[Emission]:
        """Run one trial."""


def run_trial(experiment: Experiment, config: Any, setting: Setting, identity: str) -> Record:
    """Run one trial and return its record; torch's generators are seeded with the configuration's seed first."""
    seed_generators(getattr(config, "seed", 0))
    started = time.perf_counter()
    measurements: list[Measurement] = []
    notes: list[str] = []
    outcome: Outcome | None = None
    for emission in experiment.run(config, setting):
        if isinstance(emission, Measurement):
            measurements.append(emission)
        elif isinstance(emission, Note):
            notes.append(emission.text)
        else:
            outcome = emission
    return Record(
        experiment=experiment.name,
        config=dataclasses.asdict(config),
        identity=identity,
        measurements=measurements,
        outcome=outcome,
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def is_recorded(experiment: Experiment, config: Any, records: RecordFile) -> bool:
    """Tell whether `records` has the trial already."""
    return records.is_done(experiment.name, dataclasses.asdict(config))


def sweep(
    experiment: Experiment,
    configs: Sequence[Any],
    setting: Setting,
    records: RecordFile,
    *,
    checkpoints: Path,
    on_trial: Callable[[int], None] = lambda finished: None,
) -> None:
    """Run and record each of `configs` that `records` lacks.

    Args:
        experiment: what to run.
        configs: its trials, in order.
        setting: as the user asked.
        records: where finished trials are, and go.
        checkpoints: folder for the checkpoint of a trial in progress; it is deleted once the trial is recorded.
        on_trial: told how many trials are finished, before each and at the end.
    """
    for finished, config in enumerate(configs):
        on_trial(finished)
        if is_recorded(experiment, config, records):
            continue
        trial = f"{experiment.name}-{trial_key(experiment.name, dataclasses.asdict(config))}"
        unfinished = checkpoints / f"{trial}-{records.identity}.pt"
        own = dataclasses.replace(
            setting,
            checkpoint=unfinished,
            tensorboard=setting.tensorboard / trial if setting.tensorboard else None,
        )
        records.append(run_trial(experiment, config, own, records.identity))
        checkpoint.delete(unfinished)
    on_trial(len(configs))
    records.finish()
