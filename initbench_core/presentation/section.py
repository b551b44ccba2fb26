"""What the report says of one run: collected once, written twice, as Markdown and as HTML."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from matplotlib.figure import Figure

import initbench_core
from initbench_core.errors import UserError
from initbench_core.presentation.finding import place_of
from initbench_core.presentation.plots import OUTCOME_STYLE
from initbench_core.presentation.story import CHAPTERS, CORE, Claim
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.run import Recorded, command, read_run
from initbench_core.records.schema import Failure, Record

PACKAGE = Path(initbench_core.__file__).parent

# Said in the report next to the numbers that they are about.
INTERVALS = (
    "Intervals (low to high) are 95%: of means over seeds Student's, on the log scale where the axis is; of fractions "
    "of seeds Wilson's; of ratios between configurations and of steps to a target a bootstrap over seeds, paired; of "
    "times and their ratios a bootstrap of the median over repetitions. n is the number of seeds or repetitions. "
    "A trial that did not reach its target counts as the budget, and a ratio is a bound: at least so much where such "
    "trials are in its numerator, at most where they are in its denominator, not known where they are in both."
)


class Presentable(Protocol):
    """What the report needs of an experiment; `experiments` describes each part."""

    @property
    def title(self) -> str: ...

    @property
    def question(self) -> str: ...

    def table(self, records: Sequence[Record]) -> pd.DataFrame: ...

    def findings(self, records: Sequence[Record]) -> list[str]: ...

    def claims(self, records: Sequence[Record]) -> list[Claim]: ...

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
        claims: its part of the story.
        figures: files of its figures by name, in the order of the findings that they show.
        table: its results, units in the column names.
        outcomes: how many trials ended in each outcome; empty where nothing was trained.
        trials: how many were recorded.
        seeds: how many different seeds they have.
        seconds: the wall time of all of them.
        notes: what the records say beside their numbers, with how many of them do.
        manifest: how the records came about, environment included.
    """

    run: RunName
    title: str
    question: str
    findings: Sequence[str]
    claims: Sequence[Claim]
    figures: Mapping[str, Path]
    table: pd.DataFrame
    outcomes: Mapping[str, int]
    trials: int
    seeds: int
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
        python = self.manifest["environment"]["python"]
        return f"{self.trials} trials in {self.seconds:.0f} s on {_machine(self.manifest)}, Python {python}"

    @property
    def provenance(self) -> Mapping[str, str]:
        """How each number was made: what was run how often, on what, from which code."""
        environment = self.manifest["environment"]
        commit = str(environment["commit"])[:12] + (", with changes" if environment["dirty"] else "")
        entries = {
            "Command": command(self.run, self.manifest),
            "Trials": f"{self.trials} in {self.seconds:.0f} s"
            + (f", {self.seeds} seeds per configuration" if self.seeds > 1 else ""),
            "Data": ", ".join(self.manifest.get("data", ())),
            "Device": f"{environment['device_name']} ({environment['device']}), {environment['cores']} cores, "
            f"{_threads(environment)}",
            "Software": ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
            + f", Python {environment['python']}"
            + (f", CUDA {environment['cuda']}" if environment["cuda"] else ""),
            "Platform": environment["platform"],
            "Commit": commit if environment["commit"] else "",
        }
        return {name: text for name, text in entries.items() if text}


@dataclass(frozen=True)
class Unfinished:
    """A run that lacks trials, or whose failed trials leave too little to make a table of; it is named, not drawn."""

    run: RunName
    recorded: int
    planned: int | None


@dataclass(frozen=True)
class Failed:
    """A trial that failed: its configuration as "norm none, depth 10", and why."""

    run: RunName
    config: str
    failure: Failure


@dataclass(frozen=True)
class Collected:
    """All that a report tells."""

    sections: Sequence[Section]
    unfinished: Sequence[Unfinished]
    failed: Sequence[Failed]

    @property
    def story(self) -> Mapping[str, Sequence[tuple[Section, Claim]]]:
        """The claims of all experiments under the titles of their chapters, the core's first; no empty chapters."""
        # Of several profiles the one with the most trials tells the story.
        largest = {(s.run.experiment, s.run.device): s for s in sorted(self.sections, key=lambda s: s.trials)}
        told = [s for s in self.sections if largest[s.run.experiment, s.run.device] is s]
        order = {name: place for place, name in enumerate(CORE)}
        told.sort(key=lambda s: order.get(s.run.experiment, len(order)))
        claims = [(section, claim) for section in told for claim in section.claims]
        chapters = {title: [c for c in claims if c[1].chapter == key] for key, title in CHAPTERS.items()}
        return {title: found for title, found in chapters.items() if found}


def figure_path(folder: ResultsFolder, run: RunName, name: str) -> Path:
    """Return where the figure `name` of `run` is."""
    return folder.figures / f"{run.experiment}-{name}-{run.profile}-{run.device}.png"


def origin(run: RunName, manifest: Mapping[str, Any]) -> str:
    """Return where a run's numbers come from, for its figures: what was run, on what, with which versions."""
    return f"{run.experiment}, {run.profile} profile, {run.device}: {_machine(manifest)}"


def _machine(manifest: Mapping[str, Any]) -> str:
    environment = manifest["environment"]
    versions = [f"{p} {environment['packages'][p]}" for p in ("torch", "triton") if p in environment["packages"]]
    return f"{environment['device_name']}, {_threads(environment)}; {', '.join(versions)}"


def _threads(environment: Mapping[str, Any]) -> str:
    return f"{environment['threads']} thread{'s' * (environment['threads'] != 1)}"


def read_runs(
    folder: ResultsFolder, runs: Iterable[RunName], find: Find
) -> list[tuple[RunName, Presentable, Recorded]]:
    """Read runs from which something is to be derived, each with its experiment: all of them before any is used.

    Raises:
        UserError: one of them is damaged or foreign, has lost trials, or is of no experiment.
    """
    found = []
    for run in runs:
        path = folder.records(run)
        recorded = read_run(path, run)
        try:
            experiment = find(run.experiment)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        found.append((run, experiment, recorded))
    return found


def collect(folder: ResultsFolder, find: Find) -> Collected:
    """Collect what is to be said of every run.

    Raises:
        UserError: as `read_runs`, and a run of which nothing can be told (`not_told`).
    """
    collected: list[Section] = []
    unfinished, failed = [], []
    for run, experiment, recorded in read_runs(folder, folder.recorded(), find):
        content = recorded.content
        section = _section(folder, run, experiment, recorded) if recorded.is_finished else None
        if section:
            collected.append(section)
        else:
            unfinished.append(Unfinished(run, len(content.records), recorded.manifest.get("trials")))
        for record in content.failed:
            config = ", ".join(f"{name} {value}" for name, value in record.config.items())
            if record.failure:
                failed.append(Failed(run, config, record.failure))
    return Collected(collected, unfinished, failed)


def _section(folder: ResultsFolder, run: RunName, experiment: Presentable, recorded: Recorded) -> Section | None:
    """Return what is to be said of a run; None where failed trials leave too little to make a table of."""
    records = recorded.content.records
    prefix, suffix = figure_path(folder, run, "\0").name.split("\0")
    figures = {path.name[len(prefix) : -len(suffix)]: path for path in folder.figures.glob(f"{prefix}*{suffix}")}
    counts = Counter(record.outcome.name for record in records if record.outcome)
    try:
        findings = experiment.findings(records)
        return Section(
            run=run,
            title=experiment.title,
            question=experiment.question,
            findings=findings,
            claims=experiment.claims(records),
            figures=dict(sorted(figures.items(), key=lambda item: (place_of(item[0], findings), item[0]))),
            table=experiment.table(records),
            outcomes={name: counts[name] for name in OUTCOME_STYLE if counts[name]},
            trials=len(records),
            seeds=len({record.config.get("seed") for record in records}),
            seconds=sum(record.seconds for record in records),
            notes=Counter(note for record in records for note in record.notes),
            manifest=recorded.manifest,
        )
    except Exception as error:
        if recorded.content.failed:
            return None
        raise not_told(folder, run, recorded, error) from error


def not_told(folder: ResultsFolder, run: RunName, recorded: Recorded, error: Exception) -> UserError:
    """Return that nothing can be told of a run, and where that showed: whose fault it is cannot be known here."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(
        f"{folder.records(run)} cannot be presented ({reason}{_place(error)}): another version may have recorded it "
        f"otherwise, or this one has a fault; measure again with `{command(run, recorded.manifest, folder.path)}`, or "
        f"move it away"
    )


def _place(error: Exception) -> str:
    """Return the innermost line of this package that an error came through, as " at experiments/overflow.py:89"."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    own = (f for f in frames if Path(f.filename).is_relative_to(PACKAGE))
    return next((f" at {Path(f.filename).relative_to(PACKAGE)}:{f.lineno}" for f in own), "")
