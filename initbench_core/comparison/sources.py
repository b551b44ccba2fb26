"""From what the user names to pairs of runs that may be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initbench_core.errors import UserError
from initbench_core.records.folder import MANIFEST, ResultsFolder, RunName
from initbench_core.records.run import read_run
from initbench_core.records.schema import Record

# What two runs share that were measured under the same conditions; versions and commits are what one compares.
MACHINE = ("device", "device_name", "cores", "threads")

Files = Mapping[RunName | None, Path]


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        path: the file of its records.
        experiment: whose records they are.
        records: all of them, failed ones included.
        environment: what it ran on, from its manifest.
    """

    path: Path
    experiment: str
    records: Sequence[Record]
    environment: Mapping[str, Any]

    @property
    def machine(self) -> str:
        """What two comparable runs share, in words."""
        return ", ".join(f"{name.replace('_', ' ')} {self.environment.get(name)}" for name in MACHINE)


def pairs(a: str, b: str, out: Path, *, across_machines: bool = False) -> list[tuple[Run, Run]]:
    """Find the runs that `a` and `b` name, checked to be comparable.

    Args:
        a: a file of records, a results folder, or the name of a run in `out`.
        b: likewise; two files make one pair, two folders a pair for each run that both have.
        out: results folder for names.
        across_machines: allow different machines.

    Raises:
        UserError: there is no such run, it is damaged, foreign or unfinished, or the two cannot be compared.
    """
    first, second = _files(a, out), _files(b, out)
    found: list[tuple[RunName | None, Path, Path]]
    if len(first) == len(second) == 1 and None in first and None in second:
        found = [(None, first[None], second[None])]
    elif None in first or None in second:
        raise UserError(f"{a} and {b}: name two files of records, or two results folders")
    else:
        found = [(name, first[name], second[name]) for name in first if name in second]
        if not found:
            raise UserError(f"{a} and {b} have no run in common: EXPERIMENT-PROFILE-DEVICE must agree")
    runs = [(_load(x, name), _load(y, name)) for name, x, y in found]
    for pair in runs:
        _check(*pair, across_machines=across_machines)
    for name, path in [*_alone(first, second), *_alone(second, first)]:
        read_run(path, name)
    return runs


def alone(a: str, b: str, out: Path) -> tuple[list[RunName], list[RunName]]:
    """Return the runs that only `a` has, and those that only `b` has, where both are folders; see `pairs`."""
    first, second = _files(a, out), _files(b, out)
    return [name for name, _ in _alone(first, second) if name], [name for name, _ in _alone(second, first) if name]


def _alone(files: Files, others: Files) -> list[tuple[RunName | None, Path]]:
    return [(name, path) for name, path in files.items() if name not in others]


def _files(source: str, out: Path) -> Files:
    """Return files of records by run, or under None if one file is meant."""
    path = Path(source)
    if path.is_file():
        return {None: path}
    if path.is_dir():
        folder = ResultsFolder(path)
        if not folder.recorded():
            raise UserError(f"no records in {folder.runs}: name a results folder or a file of records")
        return {run: folder.records(run) for run in folder.recorded()}
    named = ResultsFolder(out).runs / f"{source}.jsonl"
    if named.is_file():
        return {None: named}
    known = ", ".join(map(str, ResultsFolder(out).recorded())) or "none"
    raise UserError(f"no run {source!r}: name a file of records, a results folder, or a run in {out} (there: {known})")


def _load(path: Path, name: RunName | None) -> Run:
    recorded = read_run(path, name)
    manifest, content = recorded.manifest, recorded.content
    if not manifest:
        beside = path.with_suffix(MANIFEST).name
        raise UserError(f"{path} has no {beside} beside it, which tells the machine: keep the two together")
    if not recorded.is_finished:
        raise UserError(
            f"{path} is unfinished: {recorded.trials} of {manifest['trials']} trials are recorded; the command that "
            f"began it continues it"
        )
    records = [*content.records, *content.failed]
    return Run(path, records[0].experiment, records, manifest["environment"])


def _check(a: Run, b: Run, *, across_machines: bool) -> None:
    if a.experiment != b.experiment:
        raise UserError(f"{a.path} is of {a.experiment}, {b.path} of {b.experiment}: compare runs of one experiment")
    if a.machine != b.machine and not across_machines:
        raise UserError(
            f"{a.path} was measured on {a.machine}; {b.path} on {b.machine}: times of different machines do not "
            f"compare; --across-machines compares what does not depend on them"
        )
    if not {record.key for record in a.records} & {record.key for record in b.records}:
        raise UserError(f"{a.path} and {b.path} have no trial in common: compare runs of one profile and one data set")
