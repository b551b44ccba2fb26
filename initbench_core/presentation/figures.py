"""From records to figure files."""

from collections.abc import Collection
from pathlib import Path

from initbench_core.presentation import plots
from initbench_core.presentation.finding import finding_of
from initbench_core.presentation.section import Find, figure_path, not_told, origin, read_runs
from initbench_core.records.files import describe
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.run import command, read_run


def draw_figures(folder: ResultsFolder, experiments: Collection[str] | None, find: Find) -> list[Path]:
    """Draw every finished run of `experiments`, or of all that are recorded; return the files.

    Raises:
        UserError: one of the runs cannot be read (nothing is drawn), or cannot be drawn (`not_told`), or a figure
            cannot be written.
    """
    paths = []
    for run, experiment, recorded in read_runs(folder, _runs(folder, experiments), find):
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


def why_none(folder: ResultsFolder, experiments: Collection[str] | None) -> str:
    """Return why `draw_figures` drew nothing, and the commands that change it, in one line."""
    runs = _runs(folder, experiments)
    if not runs:
        return f"no run of {', '.join(experiments or ())} in {folder.path}: `initbench run` it first"
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


def _runs(folder: ResultsFolder, experiments: Collection[str] | None) -> list[RunName]:
    return [run for run in folder.recorded() if experiments is None or run.experiment in experiments]
