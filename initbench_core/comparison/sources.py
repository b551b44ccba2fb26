"""From what the user names to pairs of runs that may be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initbench_core.errors import UserError
from initbench_core.records.folder import ResultsFolder, RunName, read_manifest
from initbench_core.records.schema import Record
from initbench_core.records.store import read_whole

# What two runs share that were measured under the same conditions; versions and commits are what one compares.
MACHINE = ("device", "device_name", "cores", "threads")


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
    if len(first) == len(second) == 1 and None in first and None in second:
        found = [(first[None], second[None])]
    elif None in first or None in second:
        raise UserError(f"{a} and {b}: name two files of records, or two results folders")
    else:
        found = [(first[name], second[name]) for name in first if name in second]
        if not found:
            raise UserError(f"{a} and {b} have no run in common: EXPERIMENT-PROFILE-DEVICE must agree")
    runs = [(_load(x), _load(y)) for x, y in found]
    for pair in runs:
        _check(*pair, across_machines=across_machines)
    return runs


def _files(source: str, out: Path) -> dict[RunName | None, Path]:
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


def _load(path: Path) -> Run:
    content = read_whole(path)
    records = [*content.records, *content.failed]
    manifest = read_manifest(path)
    if not manifest:
        name = path.with_suffix(".manifest.json").name
        raise UserError(f"{path} has no {name} beside it, which tells the machine: keep the two together")
    if not manifest.get("finished"):
        raise UserError(
            f"{path} is unfinished: {len(records)} of {manifest.get('trials', 'unknown')} trials are recorded; "
            f"the command that began it continues it"
        )
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
