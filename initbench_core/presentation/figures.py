"""From records to figure files."""

from collections.abc import Iterable
from pathlib import Path

from initbench_core.presentation import plots
from initbench_core.presentation.finding import finding_of
from initbench_core.presentation.section import Find, command, figure_path, is_finished, read_run
from initbench_core.records.files import describe
from initbench_core.records.folder import ResultsFolder
from initbench_core.records.store import read


def draw_figures(folder: ResultsFolder, experiments: Iterable[str], find: Find) -> list[Path]:
    """Draw every finished run of `experiments`; return the files."""
    wanted = set(experiments)
    paths = []
    for run in folder.recorded():
        if run.experiment not in wanted or not is_finished(folder, run):
            continue
        content = read_run(folder, run)
        with plots.style():
            try:
                experiment = find(run.experiment)
                figures, findings = experiment.figures(content.records), experiment.findings(content.records)
            except Exception:
                # Where trials failed, what a figure shows may be missing altogether; the report names them.
                if content.failed:
                    continue
                raise
            for name, figure in figures.items():
                plots.say(figure, finding_of(name, findings))
                path = figure_path(folder, run, name)
                try:
                    figure.savefig(path)
                except OSError as error:
                    raise describe(error, path) from error
                paths.append(path)
    return paths


def why_none(folder: ResultsFolder, experiments: Iterable[str]) -> str:
    """Return why `draw_figures` drew nothing, and the commands that change it, in one line."""
    wanted = list(experiments)
    runs = [run for run in folder.recorded() if run.experiment in wanted]
    if not runs:
        return f"no run of {', '.join(wanted)} in {folder.path}: `initbench run` it first"
    unfinished = [run for run in runs if not is_finished(folder, run)]
    if not unfinished:
        return f"the failed trials of {', '.join(map(str, runs))} leave too little to draw: `initbench run` them again"
    reasons = []
    for run in unfinished:
        content, manifest = read(folder.records(run)), folder.manifest(run)
        if not manifest:
            reasons.append(f"{run} has no manifest, which tells how many trials it has: `initbench run` it again")
            continue
        missing = manifest["trials"] - len(content.records) - len(content.failed)
        reasons.append(
            f"{run} is unfinished, {missing} of {manifest['trials']} trials are missing: "
            f"`{command(run, manifest)} --out {folder.path}`, with what other options it had, continues it"
        )
    return "; ".join(reasons)
