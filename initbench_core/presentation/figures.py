"""From records to figure files."""

from collections.abc import Iterable
from pathlib import Path

from initbench_core.presentation.plots import style
from initbench_core.presentation.section import Find, figure_path, is_finished, read_run
from initbench_core.records.files import describe
from initbench_core.records.folder import ResultsFolder


def draw_figures(folder: ResultsFolder, experiments: Iterable[str], find: Find) -> list[Path]:
    """Draw every finished run of `experiments`; return the files."""
    wanted = set(experiments)
    paths = []
    for run in folder.recorded():
        if run.experiment not in wanted or not is_finished(folder, run):
            continue
        content = read_run(folder, run)
        with style():
            try:
                figures = find(run.experiment).figures(content.records)
            except Exception:
                # Where trials failed, what a figure shows may be missing altogether; the report names them.
                if content.failed:
                    continue
                raise
            for name, figure in figures.items():
                path = figure_path(folder, run, name)
                try:
                    figure.savefig(path)
                except OSError as error:
                    raise describe(error, path) from error
                paths.append(path)
    return paths
