"""Writing that survives a crash: whole files replaced in one step, lines appended in one write."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from initbench_core.errors import UserError


def describe(error: OSError, path: Path) -> UserError:
    """Turn an operating system's refusal into the line a user reads."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"no space left for {path}: free some, then repeat the command; earlier records are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"cannot write {path}: choose another folder with --out, or make this one writable")
    return UserError(f"cannot write {path}: {error.strerror}")


def replace_file(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all: a temporary name beside it, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise describe(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder with its parents, and check that it can be written.

    Raises:
        UserError: it cannot be made or written.
    """
    probe = path / f".probe.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise describe(error, path) from error


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Replace `path` by `body` as strict, indented JSON."""
    replace_file(path, (json.dumps(body, indent=2, allow_nan=False) + "\n").encode())


def append_line(path: Path, line: str) -> None:
    """Append one line to `path` in one write and make it durable; a line that does not fit is taken back whole."""
    data = line.encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise describe(error, path) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
