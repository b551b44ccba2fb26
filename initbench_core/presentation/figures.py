"""From records to figure files."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from initbench_core.errors import UserError
from initbench_core.presentation import plots
from initbench_core.presentation.finding import finding_of
from initbench_core.presentation.section import Find, figure_path, not_told, origin, read_runs
from initbench_core.records.files import describe
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.run import command, read_run


def runs_of(folder: ResultsFolder, experiments: Collection[str]) -> list[RunName]:
    """Return the recorded runs of these experiments, without any those of all.

    Raises:
        UserError: nothing is recorded of them.
    """
    runs = [run for run in folder.recorded() if not experiments or run.experiment in experiments]
    if not runs:
        raise UserError(f"no run of {', '.join(experiments)} in {folder.path}: `initbench run` it first")
    return runs


def draw_figures(folder: ResultsFolder, runs: Iterable[RunName], find: Find) -> list[Path]:
    """Draw those of `runs` that are finished; return the files.

    Raises:
        UserError: one of the runs cannot be read (nothing is drawn), or cannot be drawn (`not_told`), or a figure
            cannot be written.
    """
    paths = []
    for run, experiment, recorded in read_runs(folder, runs, find):
        if not recorded.is_finished:
            continue
        records = recorded.content.records
        with plots.style():
            try:
                figures, findings = experiment.figures(records), experiment.findings(records)
            except Exception as error:
                # Where trials failed, what a figure shows may be missing altogether; the report names them.
                if recorded.content.failed:
                    continue
                raise not_told(folder, run, recorded, error) from error
            for name, figure in figures.items():
                plots.say(figure, finding_of(name, findings), origin(run, recorded.manifest))
                path = figure_path(folder, run, name)
                try:
                    figure.savefig(path)
                except OSError as error:
                    raise describe(error, path) from error
                paths.append(path)
    return paths


def why_none(folder: ResultsFolder, runs: Sequence[RunName]) -> str:
    """Return why `draw_figures` drew nothing of `runs`, and the commands that change it, in one line."""
    unfinished = [(run, recorded) for run in runs if not (recorded := read_run(folder.records(run), run)).is_finished]
    if not unfinished:
        return f"the failed trials of {', '.join(map(str, runs))} leave too little to draw: `initbench run` them again"
    reasons = []
    for run, recorded in unfinished:
        manifest = recorded.manifest
        if not manifest:
            reasons.append(f"{run} has no manifest, which tells how many trials it has: `initbench run` it again")
            continue
        reasons.append(
            f"{run} is unfinished, {manifest['trials'] - recorded.trials} of {manifest['trials']} trials are missing: "
            f"`{command(run, manifest, folder.path)}`, with what other options it had, continues it"
        )
    return "; ".join(reasons)
