"""One file of records: read with damage set apart, appended to, continued."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from initbench_core.errors import UserError
from initbench_core.records.files import append_line, make_folder, replace_file, write_json
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


def read_whole(path: Path) -> Content:
    """Read a file of records from which something is to be derived: nothing of it may be lost.

    Raises:
        UserError: it is missing, empty, damaged or no file of records, or mixes two experiments, machines or codes.
    """
    content = read(path)
    if not (content.records or content.failed):
        raise UserError(f"{path} is not a file of records: no line of it is one")
    if content.damaged:
        numbers = ", ".join(str(number) for number, _ in content.damaged[:5])
        raise UserError(
            f"{path} is damaged in {len(content.damaged)} of its lines ({numbers}): the `initbench run` that wrote it "
            f"sets them apart and measures their trials again"
        )
    records = [*content.records, *content.failed]
    if len(experiments := sorted({record.experiment for record in records})) > 1:
        raise UserError(f"{path} mixes records of {', '.join(experiments)}: it is no run of one experiment")
    if len(identities := {record.identity for record in records}) > 1:
        raise UserError(
            f"{path} mixes records of {len(identities)} machines, versions or codes: keep one of them, or measure "
            f"again with --fresh"
        )
    return content


class RecordFile:
    """The records of one experiment in one profile on one device, open for one writer.

    A trial that failed does not count as done: the next run tries it again, and its last record is the one that holds.
    Records made by another environment, by other code or on other data do not count as done. They stay where they are
    until the first new record is ready; then the old file and its manifest move to `older/`, so nothing is lost and a
    file never mixes two of these.
    """

    def __init__(self, path: Path, identity: str, manifest: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Open `path`; set damaged lines apart.

        Args:
            path: the .jsonl file.
            identity: fingerprint of the environment and code that will write.
            manifest: how the records come about, with the number of "trials" planned; written beside the file.
            fresh: count nothing as done.
        """
        self.path = path
        self.identity = identity
        self.manifest = {"schema": SCHEMA, **manifest}
        self.warnings: list[str] = []
        self.failed: dict[str, Record] = {}
        self._done: set[str] = set()
        self._appended = False
        self._to_set_aside = fresh and path.exists()
        if self._to_set_aside:
            return
        content = self._repair(read(path))
        self._to_set_aside = any(record.identity != identity for record in [*content.records, *content.failed])
        if not self._to_set_aside:
            self._done = {record.key for record in content.records}
            self.failed = {record.key: record for record in content.failed}

    @property
    def manifest_path(self) -> Path:
        """Where the manifest stands: beside the records."""
        return self.path.with_suffix(".manifest.json")

    def is_done(self, experiment: str, config: Mapping[str, Scalar]) -> bool:
        """Tell whether this environment and code have recorded the trial already."""
        return trial_key(experiment, config) in self._done

    def append(self, record: Record) -> None:
        """Add one trial, durably."""
        if not self._appended:
            if self._to_set_aside:
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

    def _set_aside(self) -> None:
        older = self.path.parent / "older"
        make_folder(older)
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        for file in (self.path, self.manifest_path):
            if file.exists():
                file.rename(older / f"{stamp}-{file.name}")
        self.warnings.append(f"earlier records of other code, data or another environment are now in {older}")

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
