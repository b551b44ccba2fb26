"""Checkpoints: written whole or not at all, checked against a sha256 beside them, loaded without running code.

torch reads a file with one flipped byte without complaint and with wrong weights; the digest catches that.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from initbench_core.errors import UserError
from initbench_core.records.files import make_folder, replace_file


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _digests(path: Path) -> list[str]:
    """Digests that a checkpoint may have, the newest first; none where there is no such file."""
    try:
        return _digest_path(path).read_text().split()
    except FileNotFoundError:
        return []


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`, with its digest beside it."""
    make_folder(path.parent)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    # Two files cannot be replaced in one step. The digests of the new and of the last checkpoint go first, so that
    # whichever of the two a crash leaves behind still fits.
    digests = [hashlib.sha256(content).hexdigest(), *_digests(path)[:1]]
    replace_file(_digest_path(path), "".join(f"{digest}\n" for digest in digests).encode())
    replace_file(path, content)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint back on the CPU.

    Raises:
        UserError: it is missing, damaged (the digest does not fit), or holds more than tensors and plain values.
    """
    advice = "delete it to start this training anew"
    try:
        content = path.read_bytes()
        digests = _digests(path)
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path} or its .sha256 ({error.strerror}): {advice}") from error
    if hashlib.sha256(content).hexdigest() not in digests:
        raise UserError(f"checkpoint {path} is damaged (its sha256 does not fit): {advice}")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"checkpoint {path} holds more than weights and was not loaded: {advice}") from error
    return state


def delete(path: Path) -> None:
    """Remove a checkpoint and its digest, if they exist."""
    path.unlink(missing_ok=True)
    _digest_path(path).unlink(missing_ok=True)
