"""Which implementation serves a call: the Triton kernels or eager PyTorch.

One rule for every operator of the package. The caller's word comes first, then the environment variable
``INITBENCH_BACKEND``, then the device: Triton for CUDA tensors, eager for all others. A backend that was named is
never replaced in silence.
"""

import importlib.util
import os
from collections.abc import Callable

import torch

BACKENDS = ("eager", "triton")
_VARIABLE = "INITBENCH_BACKEND"

# Looked up without importing it, and here rather than in a function: torch.compile traces through resolve_backend.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def is_surely_eager(requested: str | None, x: torch.Tensor) -> bool:
    """Whether eager is named, or nothing is and the device's default is eager: asked first, for every call pays it."""
    return requested == "eager" or (requested is None and not x.is_cuda and _VARIABLE not in os.environ)


def _interprets() -> bool:
    """Whether Triton runs its kernels on the CPU (it reads the variable when it is imported)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def _triton_obstacle(device: torch.device, unsupported: Callable[[], str | None]) -> str | None:
    """Why the Triton kernels cannot serve `device`, or None where they can."""
    if not _HAS_TRITON:
        return "triton is not installed"
    if device.type == "cpu" and not _interprets():
        return "its kernels need a CUDA tensor (or TRITON_INTERPRET=1, to interpret them on the CPU)"
    if device.type not in ("cpu", "cuda"):
        return f"its kernels do not run on {device.type!r} tensors"
    return unsupported()


def _all_supported() -> None:
    return None


def named_backend(requested: str | None) -> str | None:
    """Return the backend that the caller names, or else `INITBENCH_BACKEND`; None where neither does.

    Raises:
        ValueError: the name is not a backend.
    """
    name = requested if requested is not None else os.environ.get(_VARIABLE) or None
    if name is not None and name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose from {', '.join(BACKENDS)}")
    return name


def resolve_backend(
    requested: str | None, device: torch.device, *, unsupported: Callable[[], str | None] = _all_supported
) -> str:
    """Name the backend that serves a call.

    Args:
        requested: "triton", "eager", or None for `INITBENCH_BACKEND` and then the device's default.
        device: device of the tensors.
        unsupported: tells why the Triton kernels cannot take these very inputs (a dtype, say), or None where they can;
            asked only where they might serve, for the answer takes microseconds.

    Returns:
        "triton" or "eager".

    Raises:
        ValueError: the name is not a backend.
        RuntimeError: the named backend cannot serve the call; the message says why.
    """
    name = named_backend(requested)
    if name is None:
        return "triton" if device.type == "cuda" and _triton_obstacle(device, unsupported) is None else "eager"
    if name == "triton" and (obstacle := _triton_obstacle(device, unsupported)) is not None:
        raise RuntimeError(f"backend 'triton' cannot serve this call: {obstacle}")
    return name
