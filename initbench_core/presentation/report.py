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
from initbench_core.records.store import Content, read


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
        content = read(folder.records(run))
        with style():
            try:
                figures = find(run.experiment).figures(content.records)
            except Exception:
                # Where trials failed, what a figure shows may be missing altogether; the report names them.
                if content.failed:
                    continue
                raise
            for name, figure in figures.items():
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
    sections, unfinished, failed = [], [], []
    for run in folder.recorded():
        content = read(folder.records(run))
        failed += [_failed(run, record) for record in content.failed]
        section = _section(folder, run, find(run.experiment), content) if _is_finished(folder, run) else None
        if section:
            sections.append(section)
        else:
            planned = folder.manifest(run).get("trials", "unknown")
            unfinished.append({"run": run, "recorded": len(content.records), "planned": planned})
    path = folder.path / "README.md"
    text = template.render(sections=sections, unfinished=unfinished, failed=failed)
    replace_file(path, (text.rstrip() + "\n").encode())
    return path


def _failed(run: RunName, record: Record) -> dict[str, Any]:
    config = ", ".join(f"{name} {value}" for name, value in record.config.items())
    return {"run": run, "config": config, "failure": record.failure}


def _section(folder: ResultsFolder, run: RunName, experiment: Presentable, content: Content) -> dict[str, Any] | None:
    """Return what the template shows of a run; None where failed trials leave too little to make a table of."""
    records = content.records
    try:
        table, findings = experiment.table(records), list(experiment.findings(records))
    except Exception:
        if content.failed:
            return None
        raise
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
        "findings": findings,
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
