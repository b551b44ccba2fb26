"""The main job: run experiments into a results folder, draw them, report them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from initbench_core import catalogue, environment
from initbench_core.errors import ConfigError, MissingDataError, TrialsFailedError, UserError
from initbench_core.execution.options import Options
from initbench_core.execution.place import Place, Places
from initbench_core.experiments import Experiment
from initbench_core.presentation.figures import draw_figures
from initbench_core.presentation.progress import Progress
from initbench_core.presentation.report import write_report
from initbench_core.presentation.section import read_runs
from initbench_core.records.files import make_folder
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.store import RecordFile
from initbench_core.training.data import DATASETS, DataSource, described
from initbench_core.training.setting import PROFILES, SEEDS, Setting
from initbench_core.training.sweep import is_recorded, sweep
from initbench_kernels.backend import BACKENDS


def run_experiments(
    experiments: Sequence[Experiment],
    *,
    profile: str,
    device: str,
    seeds: int | None,
    out: Path,
    fresh: bool = False,
    data_dir: Path | None = None,
    dataset: str | None = None,
    download: bool = False,
    checkpoints: Path | None = None,
    tensorboard: Path | None = None,
    backend: str = "auto",
    options: Options | None = None,
) -> None:
    """Run `experiments` and leave records, figures and the report in `out`; arguments as the command line's.

    Raises:
        UserError: an argument that cannot be met (before anything is measured), a configuration that cannot be built,
            data or a checkpoint that cannot be read, or a refusal to write.
        TrialsFailedError: all ran, and some trials failed.
    """
    data = DataSource(data_dir, download, dataset)
    _check(profile, device, backend, data)
    options = options or Options()
    progress = Progress(len(experiments))
    with closing(Places(options, device, progress.within_trial)) as places:
        where = [places.alone if experiment.timed else places.shared for experiment in experiments]
        folder = ResultsFolder(out)
        folder.prepare()
        for extra in (checkpoints, tensorboard):
            if extra is not None:
                make_folder(extra)
        setting = Setting(
            profile=profile,
            seeds=seeds or SEEDS[profile],
            backend=backend,
            data=data,
            strict_checkpoints=checkpoints is not None,
            tensorboard=tensorboard,
        )
        if checkpoints is None and options.executor == "local":
            # Where trials run on other machines, only the user knows of a folder that all of them have.
            checkpoints = folder.checkpoints
        missing: list[str] = []
        failed: list[str] = []
        with folder.lock(), progress:
            # Records that cannot be read or continued end the run: better now than when their turn comes, or the
            # report's.
            opened = []
            for experiment, place in zip(experiments, where, strict=True):
                with _named(experiment):
                    opened.append(_open(experiment, place, folder, setting, fresh=fresh))
            measured = {run.name for run in opened}
            read_runs(folder, [run for run in folder.recorded() if run not in measured], catalogue.find)
            for run in opened:
                try:
                    with _named(run.experiment):
                        _measure(run, options, progress, checkpoints)
                except MissingDataError as error:
                    progress.finish([*run.records.warnings, str(error)], [])
                    missing.append(f"{run.experiment.name}: {error}")
                    continue
                progress.finish(run.records.warnings, draw_figures(folder, [run.name], Experiment))
                if run.records.failed:
                    failed.append(f"{len(run.records.failed)} of {run.experiment.name}")
            if len(missing) == len(experiments):
                raise UserError("; ".join(missing))
            readme, page = write_report(folder, catalogue.find)
    print(f"Records: {folder.runs}/*.jsonl\nFigures: {folder.figures}/*.png\nReport:  {readme}, {page}")
    if missing:
        ran = f"all but {len(missing)} of {len(experiments)} experiments ran"
        raise UserError("; ".join([ran, *missing, *(f"trials failed: {trials}" for trials in failed)]))
    if failed:
        raise TrialsFailedError(
            f"trials failed: {', '.join(failed)}; {readme} says why, and the same command tries them again"
        )


@contextmanager
def _named(experiment: Experiment) -> Iterator[None]:
    """Say whose configuration it is that cannot be built."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{experiment.name}: {error}") from error


class _Opened(NamedTuple):
    """An experiment that is about to run: its trials, and the file that their records go to."""

    name: RunName
    experiment: Experiment
    place: Place
    setting: Setting
    configs: Sequence[Any]
    data: Sequence[str]
    records: RecordFile


def _open(experiment: Experiment, place: Place, folder: ResultsFolder, setting: Setting, *, fresh: bool) -> _Opened:
    setting = _on_device(setting, place.device)
    # Records of two backends differ in rounding: they are never taken for one study.
    described_place = {**place.environment, "backend": setting.backend}
    configs = experiment.grid(setting)
    data = sorted({config.data for config in configs if getattr(config, "data", "")})
    name = RunName(experiment.name, setting.profile, place.device_slug)
    records = RecordFile(
        folder.records(name),
        environment.identity(described_place, experiment.source, data, folder.token()),
        {
            "profile": setting.profile,
            "seeds": setting.seeds,
            "trials": len(configs),
            "data": [described(name) for name in data],
            "environment": described_place,
        },
        fresh=fresh,
    )
    return _Opened(name, experiment, place, setting, configs, data, records)


def _measure(run: _Opened, options: Options, progress: Progress, checkpoints: Path | None) -> None:
    """Run the trials that are not recorded yet.

    Raises:
        MissingDataError: the experiment has no data.
    """
    done = sum(is_recorded(run.experiment, config, run.records) for config in run.configs)
    progress.start(run.experiment.name, len(run.configs), done)
    sweep(
        run.experiment,
        run.configs,
        replace(run.setting, data=run.setting.data.fetch(run.data)),
        run.records,
        executor=run.place.executor,
        checkpoints=checkpoints,
        timeout=options.timeout,
        retries=options.retries,
        on_trial=progress.at_trial,
    )


def _on_device(setting: Setting, device: str) -> Setting:
    """Return the setting for a device, with the backend that serves there."""
    setting = replace(setting, device=device)
    try:
        return replace(setting, backend=setting.kernels)
    except RuntimeError as error:
        raise UserError(f"{error}; use --backend auto") from error


def _check(profile: str, device: str, backend: str, data: DataSource) -> None:
    if profile not in PROFILES:
        raise UserError(f"no profile {profile!r}: choose from {', '.join(PROFILES)}")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"no device {device!r}: choose from auto, cpu, cuda")
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"no backend {backend!r}: choose from auto, {', '.join(BACKENDS)}")
    if data.dataset not in (None, *DATASETS):
        raise UserError(f"no data set {data.dataset!r}: choose from {', '.join(DATASETS)}")
    if data.folder is None and data.dataset in DATASETS[1:]:
        raise UserError(f"--dataset {data.dataset} needs --data-dir, the folder it is in, or --download as well")
    if data.download and data.folder is None:
        raise UserError("--download needs --data-dir, the folder to fetch data sets into")
    if data.folder is None:
        return
    # These of os.path take a name that no system allows for one that is not there; those of Path raise.
    there = next(path for path in (data.folder, *data.folder.parents) if os.path.exists(path))
    if not os.path.isdir(there):
        raise UserError(f"--data-dir {data.folder}: {there} is a file; name a folder")
    if not data.download and there != data.folder:
        raise UserError(f"--data-dir {data.folder} is no folder: name the one with the data sets, or add --download")
