"""One file of records: read with damage set apart, appended to, continued."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from initbench_core.environment import differences
from initbench_core.errors import UserError
from initbench_core.records.files import append_line, make_folder, replace_file, write_json
from initbench_core.records.folder import MANIFEST, RunName, read_manifest
from initbench_core.records.schema import SCHEMA, Record, Scalar, from_line, to_line, trial_key


@dataclass
class Content:
    """What a file of records holds.

    Attributes:
        records: finished trials, the last of each, in file order.
        failed: trials that failed and have not finished since, likewise.
        damaged: (line number, text) of lines that are no records.
        torn: whether the last line lacks its end, as after a crash in the middle of a write.
    """

    records: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)
    torn: bool = False


def read(path: Path) -> Content:
    """Read a file of records; a missing file is an empty one.

    Raises:
        UserError: the file cannot be read, or was written with another schema version.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return Content()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    content = Content()
    latest: dict[str, Record] = {}
    # Not splitlines(): it also splits at characters that a damaged line may hold.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            content.torn = True
            content.damaged.append((number, line))
            continue
        try:
            record = from_line(line)
        except ValueError:
            content.damaged.append((number, line))
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        else:
            latest[record.key] = record
    content.records = [record for record in latest.values() if not record.failure]
    content.failed = [record for record in latest.values() if record.failure]
    return content


class RecordFile:
    """The records of one experiment in one profile on one device, open for one writer.

    A trial that failed does not count as done: the next run tries it again, and its last record is the one that holds.
    Records made by another environment, by other code or on other data do not count as done, nor do those of another
    experiment. They stay where they are until the first new record is ready; then the old file and its manifest move to
    `older/`, so nothing is lost and a file never mixes two of these. Those of an unfinished run, hours of work perhaps,
    move only when that is asked for.

    A shorter command than the one that began the file (fewer seeds) has no say in when that one's run is finished: the
    larger of the two plans stays in the manifest.
    """

    def __init__(self, path: Path, identity: str, manifest: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Open `path`; set damaged lines apart.

        Args:
            path: the .jsonl file, named as `RunName` is.
            identity: fingerprint of the environment and code that will write.
            manifest: how the records come about, with the number of "trials" planned; written beside the file.
            fresh: count nothing as done.

        Raises:
            UserError: the records cannot be read, or are of an unfinished run that this one cannot continue.
        """
        self.path = path
        self.identity = identity
        self.manifest = {"schema": SCHEMA, **manifest}
        self.warnings: list[str] = []
        self.failed: dict[str, Record] = {}
        self._done: set[str] = set()
        self._appended = False
        # What has to move away before the first new record comes, in words.
        self._earlier = "earlier records" if fresh and path.exists() else ""
        if self._earlier:
            return
        content = read(path)
        self._earlier = self._not_ours([*content.records, *content.failed])
        if self._earlier:
            self._refuse_unfinished(content)
        content = self._repair(content)
        if not self._earlier:
            self._done = {record.key for record in content.records}
            self.failed = {record.key: record for record in content.failed}
        if self._done or self.failed:
            self.manifest |= self._larger_plan()

    @property
    def manifest_path(self) -> Path:
        """Where the manifest stands: beside the records."""
        return self.path.with_suffix(MANIFEST)

    def is_done(self, experiment: str, config: Mapping[str, Scalar]) -> bool:
        """Tell whether this environment and code have recorded the trial already."""
        return trial_key(experiment, config) in self._done

    def append(self, record: Record) -> None:
        """Add one trial, durably."""
        if not self._appended:
            if self._earlier:
                self._set_aside()
            write_json(self.manifest_path, {**self.manifest, "finished": False})
            self._appended = True
        append_line(self.path, to_line(record))
        self.failed.pop(record.key, None)
        if record.failure:
            self.failed[record.key] = record
        else:
            self._done.add(record.key)

    def finish(self) -> None:
        """Note in the manifest that all trials that were planned, and no others, are recorded, finished or failed.

        Where nothing was added, a manifest that says so already stays as it is: it tells of what measured them.
        """
        recorded = len(self._done) + len(self.failed)
        if recorded and (self._appended or not self._is_finished()):
            write_json(self.manifest_path, {**self.manifest, "finished": recorded == self.manifest["trials"]})

    def _is_finished(self) -> bool:
        try:
            return bool(json.loads(self.manifest_path.read_text())["finished"])
        except (OSError, ValueError, KeyError):
            return False

    def _not_ours(self, records: Sequence[Record]) -> str:
        """Say what the records are where they do not count; empty where they do."""
        own = RunName.of(self.path).experiment
        if others := sorted({record.experiment for record in records} - {own}):
            return f"records of {', '.join(others)} that were in {self.path.name}"
        is_foreign = any(record.identity != self.identity for record in records)
        return "earlier records of other code, data or another environment" if is_foreign else ""

    def _refuse_unfinished(self, content: Content) -> None:
        begun = read_manifest(self.path)
        if not begun or begun.get("finished"):
            return
        changed = differences(begun["environment"], self.manifest["environment"])
        why = ", ".join(changed) or "it was begun by other code, on other data or in another folder"
        raise UserError(
            f"{self.path} is an unfinished run ({len(content.records)} of {begun['trials']} trials) that cannot be "
            f"continued: {why}; put that back, or measure anew with --fresh (what is there is kept in older/)"
        )

    def _larger_plan(self) -> dict[str, Any]:
        """Return how many trials and seeds the manifest beside the records names, where they are more."""
        try:
            beside = json.loads(self.manifest_path.read_text())
            is_larger = beside["trials"] > self.manifest["trials"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {name: beside[name] for name in ("trials", "seeds") if name in beside} if is_larger else {}

    def _set_aside(self) -> None:
        older = self.path.parent / "older"
        make_folder(older)
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        for file in (self.path, self.manifest_path):
            if file.exists():
                file.rename(older / f"{stamp}-{file.name}")
        self.warnings.append(f"{self._earlier} are now in {older}")

    def _repair(self, content: Content) -> Content:
        """Set damaged lines apart in a file beside, and rewrite the records without them."""
        if not content.damaged:
            return content
        apart = self.path.with_suffix(".damaged")
        for number, text in content.damaged:
            append_line(apart, f"line {number}: {text.rstrip()}\n")
            kind = "an unfinished last line" if not text.endswith("\n") else "a damaged line"
            self.warnings.append(f"{self.path}:{number}: {kind}, kept in {apart.name}; its trial runs again")
        whole = [*content.records, *content.failed]
        replace_file(self.path, "".join(to_line(record) for record in whole).encode())
        return Content(content.records, content.failed)
