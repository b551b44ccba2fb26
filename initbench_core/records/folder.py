"""A results folder: where things lie, who may write, and whose records they are."""

import json
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from initbench_core.errors import UserError
from initbench_core.records.files import describe, make_folder, replace_file

# What the file of records has instead of .jsonl, where its manifest stands.
MANIFEST = ".manifest.json"


class RunName(NamedTuple):
    """What a file of records is of: `toy_regression-quick-cpu.jsonl`."""

    experiment: str
    profile: str
    device: str

    @classmethod
    def of(cls, path: Path) -> "RunName":
        """Read the name back from a file; the device's own name may have dashes.

        Raises:
            UserError: a .jsonl file that is not named so.
        """
        parts = path.stem.split("-", 2)
        if len(parts) != 3:
            raise UserError(f"{path} is not a file of records: expected EXPERIMENT-PROFILE-DEVICE.jsonl; move it away")
        return cls(*parts)

    def __str__(self) -> str:
        return "-".join(self)


@dataclass(frozen=True)
class ResultsFolder:
    """`runs/*.jsonl` with manifests, and what is derived from them: `figures/*.png`, `tables/*.csv`, `README.md`."""

    path: Path

    @property
    def runs(self) -> Path:
        """Folder of the records."""
        return self.path / "runs"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    @property
    def tables(self) -> Path:
        """Folder of the tables, as CSV."""
        return self.path / "tables"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of unfinished trials."""
        return self.path / "checkpoints"

    def records(self, run: RunName) -> Path:
        """Return the file of records of `run`."""
        return self.runs / f"{run}.jsonl"

    def recorded(self) -> list[RunName]:
        """Return what has been recorded, sorted: a manifest tells of a run even where its records are lost."""
        manifests = (path.with_name(path.name.removesuffix(MANIFEST)) for path in self.runs.glob(f"*{MANIFEST}"))
        names = {path.with_name(f"{path.name}.jsonl") for path in manifests} | set(self.runs.glob("*.jsonl"))
        return sorted(map(RunName.of, names))

    def prepare(self) -> None:
        """Make the folders and check that they can be written, before anything is measured.

        Raises:
            UserError: they cannot, or this is no results folder and holds a file that the report would overwrite.
        """
        theirs = [self.path / name for name in ("README.md", "index.html") if os.path.exists(self.path / name)]
        if theirs and not (self.runs.exists() or self.tables.exists()):
            raise UserError(
                f"the report would overwrite {theirs[0]}, which is no report: name another folder with --out"
            )
        for folder in (self.path, self.runs, self.figures, self.tables):
            make_folder(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder as its only writer.

        The operating system releases the lock of a process that died, however it died.

        Raises:
            UserError: another process holds it; the message names it.
        """
        owner = self.path / ".owner"
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = owner.read_text().strip() if owner.exists() else "another process"
            raise UserError(
                f"{self.path} is being written by {who}: wait for it, or choose another folder with --out"
            ) from None
        except OSError as error:
            raise describe(error, self.path) from error
        try:
            replace_file(owner, f"process {os.getpid()} on {platform.node()}\n".encode())
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def existing(self) -> Iterator["ResultsFolder"]:
        """Hold a folder that has records, to derive something from them.

        Raises:
            UserError: it has none, cannot be written, or is being written.
        """
        if not self.recorded():
            raise UserError(f"no records in {self.runs}: run `initbench run` first, or name the folder with --out")
        self.prepare()
        with self.lock():
            yield self

    def token(self) -> str:
        """Return a random name of this very folder, made at first use and not under version control.

        Records that came with a clone were measured elsewhere; without the token they would count as done here.
        """
        path = self.path / ".token"
        if not path.exists():
            replace_file(path, f"{uuid.uuid4().hex}\n".encode())
        return path.read_text().strip()

    def manifest(self, run: RunName) -> dict[str, Any]:
        """Return the manifest of `run`, empty where there is none."""
        return read_manifest(self.records(run))


def read_manifest(records: Path) -> dict[str, Any]:
    """Return the manifest beside a file of records, empty where there is none.

    Raises:
        UserError: it is damaged, or cannot be read.
    """
    path = records.with_suffix(MANIFEST)
    try:
        body = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, or measure again with --fresh") from error
    manifest: dict[str, Any] = body if isinstance(body, dict) else {}
    environment, trials = manifest.get("environment"), manifest.get("trials")
    if not (isinstance(environment, dict) and isinstance(trials, int) and trials > 0):
        raise UserError(
            f"{path} is damaged (no environment, or no number of trials): delete it, or measure again with --fresh"
        )
    return manifest
