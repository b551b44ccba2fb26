"""Where and with what a trial ran: device, versions, commit, threads; and the fingerprint of all that matters.

torch is imported only inside functions: the command line answers `--help` without it.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from initbench_core.errors import UserError

PACKAGES = ("torch", "torchvision", "triton", "numpy", "scipy", "mlxtend")

# What `describe` tells, and a report and a comparison need.
DESCRIBED = (
    "device", "device_name", "cores", "threads", "platform", "python", "cuda", "packages", "commit", "dirty",
)  # fmt: skip

# What changes with every edit of a document, or with the system's patches: said to the reader, and no part of the
# fingerprint.
INCIDENTAL = ("commit", "dirty", "platform")

# The code that makes numbers. Presentation is left out: a new colour does not make a measurement stale.
NUMERIC_CODE = ("networks", "training", "measurement")


def choose_device(requested: str) -> str:
    """Return "cpu" or "cuda" for "auto", "cpu" or "cuda".

    Raises:
        UserError: "cuda" without a usable GPU.
    """
    import torch

    if requested == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu (or auto)")
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return requested


def device_name(device: str) -> str:
    """Return what the device calls itself: "NVIDIA H200", or the processor's model."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    try:
        models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def device_slug(device: str) -> str:
    """Return the device as part of a file name: "cpu", or the GPU's name as "nvidia-h200"."""
    if device == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def describe(device: str) -> dict[str, Any]:
    """Return everything a reader needs to judge a number: device, versions, commit, threads."""
    import torch

    return {
        "device": device,
        "device_name": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device == "cuda" else None,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        **_revision(),
    }


def identity(environment: dict[str, Any], experiment: Path, data: Iterable[str], token: str) -> str:
    """Fingerprint what a trial's numbers depend on: device, versions, threads, code, data, and the results folder.

    The code itself is read instead of the commit.

    Args:
        environment: as `describe` returns it.
        experiment: source file of the experiment.
        data: names of the data sets; two of them in one file would be pooled.
        token: name of the results folder (`ResultsFolder.token`).
    """
    relevant = {k: v for k, v in environment.items() if k not in INCIDENTAL}
    digest = hashlib.sha256(repr([sorted(relevant.items()), sorted(data), token]).encode())
    root = Path(__file__).parent
    import initbench_kernels

    folders = [root / name for name in NUMERIC_CODE] + [Path(initbench_kernels.__file__).parent]
    sources = [source for folder in folders for source in sorted(folder.rglob("*.py"))]
    for source in [*sources, experiment]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which parts of the fingerprint differ between two environments, each as "threads 2, now 1"."""
    flat = [
        {**{k: v for k, v in each.items() if k != "packages"}, **each.get("packages", {})} for each in (before, now)
    ]
    names = sorted(set().union(*flat) - set(INCIDENTAL))
    old, new = ({name: each.get(name, "none") for name in names} for each in flat)
    return [f"{name} {old[name]}, now {new[name]}" for name in names if old[name] != new[name]]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> dict[str, Any]:
    """Commit and dirty flag of the source, where it is a git checkout with git at hand.

    The results themselves do not make a checkout dirty: writing them is what a run does.
    """
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if not (root / ".git").exists() or (commit := git("rev-parse", "HEAD")) is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", ".", ":!results"))}
