"""What the user asked for, as every experiment sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from initbench_core.training.data import DataSource
from initbench_kernels.backend import resolve_backend

PROFILES = ("smoke", "quick", "full")
SEEDS = {"smoke": 1, "quick": 5, "full": 20}

T = TypeVar("T")


def _no_progress(fraction: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Setting:
    """How to run experiments.

    Attributes:
        profile: "smoke" (seconds: does it run), "quick" (minutes on two cores) or "full".
        seeds: repetitions per configuration, seeds 0 to seeds - 1.
        device: "cpu" or "cuda".
        backend: of fused BatchNorm and ReLU and of fills: "triton", "eager", or "auto" for the device's default.
        data: where data sets come from.
        checkpoint: file for the unfinished training of the current trial; None keeps none.
        strict_checkpoints: whether a damaged checkpoint is the user's to resolve; otherwise that training restarts.
        tensorboard: folder for TensorBoard event files; None writes none.
        progress: told the finished fraction of the current trial.
    """

    profile: str = "quick"
    seeds: int = 5
    device: str = "cpu"
    backend: str = "auto"
    data: DataSource = field(default_factory=DataSource)
    checkpoint: Path | None = None
    strict_checkpoints: bool = False
    tensorboard: Path | None = None
    progress: Callable[[float], None] = _no_progress

    @property
    def kernels(self) -> str:
        """The backend that serves: "triton" or "eager".

        Raises:
            RuntimeError: the one asked for cannot serve the device.
        """
        return resolve_backend(None if self.backend == "auto" else self.backend, torch.device(self.device))

    def pick(self, *, smoke: T, quick: T, full: T) -> T:
        """Return the value for this profile."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.profile]
