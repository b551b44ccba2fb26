"""What the report says of one run: collected once, written twice, as Markdown and as HTML."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from matplotlib.figure import Figure

from initbench_core.presentation.plots import OUTCOME_STYLE
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.schema import Record
from initbench_core.records.store import read, read_whole

# Said in the report next to the numbers that they are about.
OUTCOME_MEANING = {
    "trained": "reached its target",
    "slow": "did better than the constant predictor, but fell short of the target",
    "stalled": "did not better the constant predictor's loss by 1%",
    "diverged": "left the finite numbers, or 1,000 times its first loss",
}
INTERVALS = (
    "Intervals (low to high) are 95%: of means over seeds Student's, on the log scale where the axis is; of times and "
    "their ratios a bootstrap of the median over repetitions. n is the number of seeds or repetitions."
)


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


@dataclass(frozen=True)
class Section:
    """One finished run.

    Attributes:
        run: experiment, profile and device.
        title: what the experiment measures, one line.
        question: question, expectation and source.
        findings: sentences made from the numbers, the headline first.
        figures: files of its figures by name.
        table: its results, units in the column names.
        outcomes: how many trials ended in each outcome; empty where nothing was trained.
        trials: how many were recorded.
        seconds: the wall time of all of them.
        notes: what the records say beside their numbers, with how many of them do.
        manifest: how the records came about, environment included.
    """

    run: RunName
    title: str
    question: str
    findings: Sequence[str]
    figures: Mapping[str, Path]
    table: pd.DataFrame
    outcomes: Mapping[str, int]
    trials: int
    seconds: float
    notes: Mapping[str, int]
    manifest: Mapping[str, Any]

    @property
    def heading(self) -> str:
        """Experiment, profile and device in words."""
        return f"{self.run.experiment} ({self.run.profile}, {self.run.device})"

    @property
    def anchor(self) -> str:
        """What GitHub makes of the heading in a link."""
        return "".join(c for c in self.heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")

    @property
    def headline(self) -> str:
        """The finding that a reader should take along."""
        return self.findings[0] if self.findings else f"{self.title}."

    @property
    def outcome_text(self) -> str:
        """The outcomes as "16 trained, 4 slow"."""
        return ", ".join(f"{count} {name}" for name, count in self.outcomes.items()) or "-"

    @property
    def environment(self) -> str:
        """What the numbers were made with, in one line."""
        environment = self.manifest["environment"]
        versions = [f"{p} {environment['packages'][p]}" for p in ("torch", "triton") if p in environment["packages"]]
        return (
            f"{self.trials} trials in {self.seconds:.0f} s on {environment['device_name']}, "
            f"{environment['threads']} threads; {', '.join(versions)}, Python {environment['python']}"
        )

    @property
    def provenance(self) -> Mapping[str, str]:
        """How each number was made: what was run how often, on what, from which code."""
        environment = self.manifest["environment"]
        commit = str(environment["commit"])[:12] + (", with changes" if environment["dirty"] else "")
        seeds = f", {self.manifest['seeds']} seeds per configuration" if "seeds" in self.manifest else ""
        default = f"initbench run {self.run.experiment} --profile {self.run.profile} --device {environment['device']}"
        entries = {
            "Command": self.manifest.get("command", default),
            "Trials": f"{self.trials} in {self.seconds:.0f} s"
            + (f", {seeds} seeds per configuration" if seeds else ""),
            "Data": ", ".join(self.manifest.get("data", ())),
            "Device": f"{environment['device_name']} ({environment['device']}), {environment['cores']} cores, "
            f"{environment['threads']} threads",
            "Software": ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
            + f", Python {environment['python']}"
            + (f", CUDA {environment['cuda']}" if environment["cuda"] else ""),
            "Platform": environment["platform"],
            "Commit": commit if environment["commit"] else "",
        }
        return {name: text for name, text in entries.items() if text}


@dataclass(frozen=True)
class Unfinished:
    """A run that lacks trials; it is named, not drawn, for a part would mislead."""

    run: RunName
    recorded: int
    planned: int | None


def figure_path(folder: ResultsFolder, run: RunName, name: str) -> Path:
    """Return where the figure `name` of `run` is."""
    return folder.figures / f"{run.experiment}-{name}-{run.profile}-{run.device}.png"


def finished(folder: ResultsFolder) -> list[RunName]:
    """Return the runs of which all trials are recorded."""
    return [run for run in folder.recorded() if folder.manifest(run).get("finished")]


def sections(folder: ResultsFolder, find: Find) -> list[Section]:
    """Collect what is to be said of every finished run.

    Raises:
        UserError: records that are damaged or foreign.
    """
    return [_section(folder, run, find(run.experiment)) for run in finished(folder)]


def unfinished(folder: ResultsFolder) -> list[Unfinished]:
    """Name the other runs."""
    rest = [run for run in folder.recorded() if run not in finished(folder)]
    return [Unfinished(run, len(read(folder.records(run)).records), folder.manifest(run).get("trials")) for run in rest]


def _section(folder: ResultsFolder, run: RunName, experiment: Presentable) -> Section:
    records = read_whole(folder.records(run))
    prefix, suffix = figure_path(folder, run, "\0").name.split("\0")
    found = {path.name[len(prefix) : -len(suffix)]: path for path in folder.figures.glob(f"{prefix}*{suffix}")}
    return Section(
        run=run,
        title=experiment.title,
        question=experiment.question,
        findings=experiment.findings(records),
        figures=dict(sorted(found.items())),
        table=experiment.table(records),
        outcomes=_in_order(record.outcome.name for record in records if record.outcome),
        trials=len(records),
        seconds=sum(record.seconds for record in records),
        notes=Counter(note for record in records for note in record.notes),
        manifest=folder.manifest(run),
    )


def _in_order(outcomes: Iterable[str]) -> dict[str, int]:
    counts = Counter(outcomes)
    return {name: counts[name] for name in OUTCOME_STYLE if counts[name]}
