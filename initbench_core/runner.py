"""The main job: run experiments into a results folder, draw them, report them."""

from collections.abc import Sequence
from pathlib import Path

from initbench_core import environment
from initbench_core.errors import MissingDataError, TrialsFailedError, UserError
from initbench_core.execution.in_process import InProcessExecutor
from initbench_core.experiments import Experiment
from initbench_core.presentation.progress import Progress
from initbench_core.presentation.report import draw_figures, write_report
from initbench_core.records.files import make_folder
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.store import RecordFile
from initbench_core.training.data import DataSource
from initbench_core.training.setting import PROFILES, SEEDS, Setting
from initbench_core.training.sweep import is_recorded, sweep


def run_experiments(
    experiments: Sequence[Experiment],
    *,
    profile: str,
    device: str,
    seeds: int | None,
    out: Path,
    fresh: bool = False,
    data_dir: Path | None = None,
    download: bool = False,
    checkpoints: Path | None = None,
    tensorboard: Path | None = None,
) -> None:
    """Run `experiments` and leave records, figures and the report in `out`; arguments as the command line's.

    Raises:
        UserError: an argument that cannot be met (before anything is measured), data or a checkpoint that cannot be
            read, or a refusal to write.
    """
    _check(profile, device, data_dir, download)
    device = environment.choose_device(device)
    folder = ResultsFolder(out)
    folder.prepare()
    for extra in (checkpoints, tensorboard):
        if extra is not None:
            make_folder(extra)
    with folder.lock(), Progress(len(experiments)) as progress:
        setting = Setting(
            profile=profile,
            seeds=seeds or SEEDS[profile],
            device=device,
            data=DataSource(data_dir, download),
            strict_checkpoints=checkpoints is not None,
            tensorboard=tensorboard,
        )
        described = environment.describe(device)
        missing: list[str] = []
        failed: list[str] = []
        for experiment in experiments:
            configs = experiment.grid(setting)
            name = RunName(experiment.name, profile, environment.device_slug(device))
            data = sorted({config.data for config in configs if hasattr(config, "data")})
            records = RecordFile(
                folder.records(name),
                environment.identity(described, experiment.source, data, folder.token()),
                {
                    "profile": profile,
                    "seeds": setting.seeds,
                    "trials": len(configs),
                    "data": data,
                    "environment": described,
                },
                fresh=fresh,
            )
            progress.start(experiment.name, len(configs), sum(is_recorded(experiment, c, records) for c in configs))
            try:
                sweep(
                    experiment,
                    configs,
                    setting,
                    records,
                    executor=InProcessExecutor(progress.within_trial),
                    checkpoints=checkpoints or folder.checkpoints,
                    on_trial=progress.at_trial,
                )
            except MissingDataError as error:
                missing.append(f"{experiment.name}: {error}")
                progress.finish([*records.warnings, str(error)], [])
                continue
            if records.failed:
                failed.append(f"{len(records.failed)} of {experiment.name}")
            progress.finish(records.warnings, draw_figures(folder, [experiment.name], Experiment))
        if len(missing) == len(experiments):
            raise UserError("; ".join(missing))
        report = write_report(folder, Experiment)
    print(f"Records: {folder.runs}/*.jsonl\nFigures: {folder.figures}/*.png\nReport:  {report}")
    if missing:
        ran = f"all but {len(missing)} of {len(experiments)} experiments ran"
        raise UserError("; ".join([ran, *missing, *(f"trials failed: {trials}" for trials in failed)]))
    if failed:
        raise TrialsFailedError(
            f"trials failed: {', '.join(failed)}; {report} says why, and the same command tries them again"
        )


def _check(profile: str, device: str, data_dir: Path | None, download: bool) -> None:
    if profile not in PROFILES:
        raise UserError(f"no profile {profile!r}: choose from {', '.join(PROFILES)}")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"no device {device!r}: choose from auto, cpu, cuda")
    if download and data_dir is None:
        raise UserError("--download needs --data-dir, the folder to fetch data sets into")
    if data_dir is not None and not download and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir} is no folder: name the one with the data sets, or add --download")
