"""What the user asked for, as every experiment sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from initbench_core.training.data import DataSource

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
        data: where data sets come from.
        checkpoint: file for the unfinished training of the current trial; None keeps none.
        strict_checkpoints: whether a damaged checkpoint is the user's to resolve; otherwise that training restarts.
        tensorboard: folder for TensorBoard event files; None writes none.
        progress: told the finished fraction of the current trial.
    """

    profile: str = "quick"
    seeds: int = 5
    device: str = "cpu"
    data: DataSource = field(default_factory=DataSource)
    checkpoint: Path | None = None
    strict_checkpoints: bool = False
    tensorboard: Path | None = None
    progress: Callable[[float], None] = _no_progress

    def pick(self, *, smoke: T, quick: T, full: T) -> T:
        """Return the value for this profile."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.profile]
