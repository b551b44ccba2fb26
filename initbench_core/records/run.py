"""One run: its records held against the name of their file and against its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initbench_core.environment import DESCRIBED
from initbench_core.errors import UserError
from initbench_core.records.folder import MANIFEST, RunName, read_manifest
from initbench_core.records.store import Content, read


@dataclass(frozen=True)
class Recorded:
    """What is recorded of a run, finished or not; nothing of it is damaged, foreign or lost.

    Attributes:
        content: its trials.
        manifest: how they come about; empty where there is none.
    """

    content: Content
    manifest: Mapping[str, Any]

    @property
    def trials(self) -> int:
        """How many trials are recorded, failed ones included."""
        return len(self.content.records) + len(self.content.failed)

    @property
    def is_finished(self) -> bool:
        """Whether all trials are there: figures and findings of a part would mislead."""
        return bool(self.manifest.get("finished"))


def read_run(path: Path, run: RunName | None = None) -> Recorded:
    """Read a file of records from which something is to be derived.

    A run that was interrupted may lack trials and the end of its last line; the command that began it puts that right.

    Args:
        path: the file; its manifest is beside it.
        run: what the file's name says; None where it has a name of its own.

    Raises:
        UserError: it or its manifest is damaged, it is no file of records, mixes two experiments, machines or codes, is
            not of `run`, or its number of trials is not that of a finished manifest.
    """
    recorded = Recorded(read(path), read_manifest(path))
    if recorded.manifest:
        _check_environment(path, recorded.manifest["environment"])
    _check_lines(path, recorded)
    _check_origin(path, recorded.content, run)
    if recorded.is_finished:
        _check_number(path, recorded, run)
    return recorded


def command(run: RunName, manifest: Mapping[str, Any], out: Path | None = None) -> str:
    """Return the command that measures a run, or continues it; what options beside these it had is not recorded."""
    if "command" in manifest:
        return str(manifest["command"])
    seeds = f" --seeds {manifest['seeds']}" if "seeds" in manifest else ""
    folder = f" --out {out}" if out else ""
    device = manifest["environment"]["device"]
    return f"initbench run {run.experiment} --profile {run.profile} --device {device}{seeds}{folder}"


def _check_environment(path: Path, environment: Mapping[str, Any]) -> None:
    missing = [name for name in DESCRIBED if name not in environment]
    if missing or not isinstance(environment["packages"], dict):
        raise UserError(
            f"{path.with_suffix(MANIFEST)} is damaged (its environment lacks {', '.join(missing or ['packages'])}): "
            f"measure again with --fresh"
        )


def _check_lines(path: Path, recorded: Recorded) -> None:
    content, is_begun = recorded.content, bool(recorded.manifest) and not recorded.is_finished
    # The manifest is written before the first line: a run that was killed has one, and no whole line perhaps.
    damaged = [number for number, text in content.damaged if text.endswith("\n") or not is_begun]
    if not recorded.trials and (damaged or not recorded.manifest):
        raise UserError(f"{path} is not a file of records: no line of it is one; move it away")
    if damaged:
        raise UserError(
            f"{path} is damaged in {len(damaged)} of its lines ({', '.join(map(str, damaged[:5]))}): the "
            f"`initbench run` that wrote it sets them apart and measures their trials again"
        )


def _check_origin(path: Path, content: Content, run: RunName | None) -> None:
    records = [*content.records, *content.failed]
    experiments = sorted({record.experiment for record in records})
    if len(experiments) > 1:
        raise UserError(f"{path} mixes records of {', '.join(experiments)}: it is no run of one experiment")
    if run and experiments not in ([], [run.experiment]):
        raise UserError(f"{path} holds records of {experiments[0]}, not of {run.experiment}: move it away")
    if len(identities := {record.identity for record in records}) > 1:
        raise UserError(
            f"{path} mixes records of {len(identities)} machines, versions or codes: keep one of them, or measure "
            f"again with --fresh"
        )


def _check_number(path: Path, recorded: Recorded, run: RunName | None) -> None:
    found, measured = recorded.trials, recorded.manifest["trials"]
    if found > measured:
        raise UserError(f"{path} holds {found} trials, {measured} by its manifest: measure again with --fresh")
    if found < measured:
        again = "the command that measured them"
        if run:
            again = f"`{command(run, recorded.manifest, path.parents[1])}`, with what other options it had"
        raise UserError(
            f"{path} has lost trials, {found} of {measured} are there: bring the file back, or measure what is missing "
            f"with {again}"
        )
