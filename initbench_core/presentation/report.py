"""From records to figures and to the report.

What an experiment's records mean only the experiment knows: the callers pass a function that finds it by name.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from initbench_core.presentation.plots import OUTCOME_STYLE, style
from initbench_core.records.files import describe, replace_file
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.schema import Record
from initbench_core.records.store import read


class Presentable(Protocol):
    """What the report needs of an experiment; `experiments` describes each part."""

    @property
    def title(self) -> str: ...

    @property
    def question(self) -> str: ...

    def table(self, records: Sequence[Record]) -> pd.DataFrame: ...

    def findings(self, records: Sequence[Record]) -> list[str]: ...

    def figures(self, records: Sequence[Record]) -> Mapping[str, Figure]: ...


Find = Callable[[str], Presentable]


def _is_finished(folder: ResultsFolder, run: RunName) -> bool:
    """Tell whether all trials of a run are there: figures and findings of a part would mislead."""
    return bool(folder.manifest(run).get("finished"))


def draw_figures(folder: ResultsFolder, experiments: Iterable[str], find: Find) -> list[Path]:
    """Draw every recorded run of `experiments`; return the files."""
    wanted = set(experiments)
    paths = []
    for run in folder.recorded():
        if run.experiment not in wanted or not _is_finished(folder, run):
            continue
        with style():
            for name, figure in find(run.experiment).figures(read(folder.records(run)).records).items():
                path = folder.figures / f"{run.experiment}-{name}-{run.profile}-{run.device}.png"
                try:
                    figure.savefig(path)
                except OSError as error:
                    raise describe(error, path) from error
                paths.append(path)
    return paths


def write_report(folder: ResultsFolder, find: Find) -> Path:
    """Write `README.md`: a table of all results, then each experiment with findings, figures and table."""
    template = jinja2.Environment(trim_blocks=False, autoescape=False).from_string(
        Path(__file__).with_name("report.md.j2").read_text()
    )
    runs = folder.recorded()
    sections = [_section(folder, run, find(run.experiment)) for run in runs if _is_finished(folder, run)]
    unfinished = [_unfinished(folder, run) for run in runs if not _is_finished(folder, run)]
    path = folder.path / "README.md"
    replace_file(path, (template.render(sections=sections, unfinished=unfinished).rstrip() + "\n").encode())
    return path


def _unfinished(folder: ResultsFolder, run: RunName) -> dict[str, Any]:
    planned = folder.manifest(run).get("trials", "unknown")
    return {"run": run, "recorded": len(read(folder.records(run)).records), "planned": planned}


def _section(folder: ResultsFolder, run: RunName, experiment: Presentable) -> dict[str, Any]:
    records = read(folder.records(run)).records
    table = experiment.table(records)
    replace_file(folder.tables / f"{run}.csv", table.to_csv(index=False).encode())
    heading = f"{run.experiment} ({run.profile}, {run.device})"
    counts = Counter(record.outcome.name for record in records if record.outcome)
    return {
        "run": run,
        "name": run.experiment,
        "heading": heading,
        "anchor": "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_"),
        "title": experiment.title,
        "question": experiment.question,
        "trials": len(records),
        "outcomes": ", ".join(f"{counts[name]} {name}" for name in OUTCOME_STYLE if counts[name]) or "-",
        "findings": experiment.findings(records),
        "figures": sorted(p.name for p in folder.figures.glob(f"{run.experiment}-*-{run.profile}-{run.device}.png")),
        "table": markdown(table),
        "environment": _environment(folder, run, records),
    }


def _environment(folder: ResultsFolder, run: RunName, records: Sequence[Record]) -> str:
    manifest = folder.manifest(run)
    environment = manifest["environment"]
    seconds = sum(record.seconds for record in records)
    packages = ", ".join(
        f"{p} {environment['packages'].get(p)}" for p in ("torch", "triton") if p in environment["packages"]
    )
    return (
        f"{len(records)} trials in {seconds:.0f} s on {environment['device_name']}, {environment['threads']} threads; "
        f"{packages}, Python {environment['python']}"
    )


def markdown(frame: pd.DataFrame) -> str:
    """Return a data frame as a Markdown table; numbers with four digits, missing ones as a dash."""
    lines = [[_cell(column) for column in frame.columns], ["---"] * len(frame.columns)]
    lines += [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|")
