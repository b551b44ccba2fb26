"""A comparison as a table for a terminal, as Markdown for a pull request, or as JSON for a program."""

import dataclasses
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from initbench_core.comparison.judgement import Change
from initbench_core.comparison.limits import limits
from initbench_core.comparison.sources import Run
from initbench_core.presentation.tables import markdown
from initbench_core.records.folder import RunName

FORMATS = ("text", "markdown", "json")
# In the order in which they are shown, each with its colour.
VERDICTS = {"worse": "bold red", "better": "green", "changed": "yellow"}
# A terminal's worth of changes that are no regressions; JSON has all.
SHOWN = 40
HEADINGS = ("", "experiment", "configuration", "metric", "A", "B", "change", "95% interval", "n")


def show(
    runs: Sequence[tuple[Run, Run]],
    changes: Sequence[Change],
    form: str,
    alone: tuple[Sequence[RunName], Sequence[RunName]] = ((), ()),
) -> None:
    """Print what changed, regressions first, how much was compared, and what was not.

    Args:
        runs: the pairs that were compared.
        changes: what `changes.compare` found.
        form: one of FORMATS.
        alone: runs that only A has, and only B.
    """
    standing = sorted(
        (change for change in changes if change.verdict in VERDICTS),
        key=lambda change: (list(VERDICTS).index(change.verdict), -_size(change)),
    )
    if form == "json":
        counts = {verdict: sum(change.verdict == verdict for change in changes) for verdict in (*VERDICTS, "same")}
        body = {
            "compared": len(changes),
            **counts,
            "changes": [*map(_plain, standing)],
            "limits": [dataclasses.asdict(limit) for limit in limits(changes)],
            "alone": {
                side: {"runs": [*map(str, names)], "trials": trials}
                for side, names, trials in zip("AB", alone, trials_alone(runs), strict=True)
            },
        }
        print(json.dumps(body, indent=2, allow_nan=False))
        return
    worse = sum(change.verdict == "worse" for change in standing)
    shown = standing[: max(SHOWN, worse)]
    rest = f"and {len(standing) - len(shown)} more: --format json lists all" if len(shown) < len(standing) else ""
    told = [*([rest] if rest else []), *map(str, limits(changes)), *not_compared(runs, alone), summary(changes)]
    lines = [*versions(runs), *told]
    if form == "markdown":
        table = [markdown(pd.DataFrame(map(_row, shown), columns=list(HEADINGS)))] if shown else []
        print("\n\n".join([*table, *lines]))
        return
    # Without a terminal there is no width to keep to.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)
    if shown:
        console.print(_table(shown))
    for line in lines:
        console.print(line, markup=False)


def summary(changes: Sequence[Change]) -> str:
    """Count the verdicts."""
    counts = Counter(change.verdict for change in changes)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS]
    return f"{len(changes)} metrics compared: {', '.join(parts)}, {counts['same']} the same within noise"


def versions(runs: Sequence[tuple[Run, Run]]) -> list[str]:
    """Tell what A and B are, and where their environments differ."""
    lines: dict[str, list[Path]] = defaultdict(list)
    for pair in runs:
        sides = [{**run.environment.get("packages", {}), "commit": run.environment.get("commit")} for run in pair]
        different = [key for key in sides[0] | sides[1] if sides[0].get(key) != sides[1].get(key)]
        for name, run, side in zip("AB", pair, sides, strict=True):
            details = "".join(f", {key} {side.get(key)}" for key in different)
            lines[f"{name}: {{}}{details}"].append(run.path)
    return [
        text.format(str(paths[0]) if len(paths) == 1 else f"{len(paths)} runs in {paths[0].parent}")
        for text, paths in sorted(lines.items())
    ]


def trials_alone(runs: Sequence[tuple[Run, Run]]) -> tuple[dict[str, int], dict[str, int]]:
    """Count by experiment the trials that only A has, and those that only B has."""
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for pair in runs:
        first, second = ({record.key for record in run.records} for run in pair)
        counts[0][pair[0].experiment] += len(first - second)
        counts[1][pair[1].experiment] += len(second - first)
    return dict(+counts[0]), dict(+counts[1])


def not_compared(
    runs: Sequence[tuple[Run, Run]], alone: tuple[Sequence[RunName], Sequence[RunName]] = ((), ())
) -> list[str]:
    """Tell what only one side has."""
    lines = []
    for side, names, trials in zip("AB", alone, trials_alone(runs), strict=True):
        texts = [f"{count} {'trial' if count == 1 else 'trials'} of {name}" for name, count in trials.items()]
        texts += [f"the run {name}" for name in names]
        if texts:
            lines.append(f"not compared, for {side} alone has them: {', '.join(texts)}")
    return lines


def _size(change: Change) -> float:
    return math.inf if math.isnan(change.relative) else abs(change.relative)


def _row(change: Change) -> list[str]:
    relative = "" if math.isnan(change.relative) else f"{change.relative:+.1%}"
    ends = "" if math.isnan(change.low) else f"{change.low:+.1%} to {change.high:+.1%}"
    texts = [change.verdict, change.experiment, change.configuration, change.metric, change.a, change.b]
    return [*texts, relative, ends, str(change.n)]


def _table(changes: Sequence[Change]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in HEADINGS[4:] else "left", overflow="fold")
    for change in changes:
        cells = [cell.replace("[", "\\[") for cell in _row(change)]
        cells[0] = f"[{VERDICTS[change.verdict]}]{cells[0]}[/]"
        table.add_row(*cells)
    return table


def _plain(change: Change) -> dict[str, object]:
    body = dataclasses.asdict(dataclasses.replace(change, rule=None, difference=None))
    del body["rule"], body["difference"]
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in body.items()}
