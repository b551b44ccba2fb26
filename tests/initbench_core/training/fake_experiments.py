"""Experiments for the tests of the sweep: their trials take no time and end as their configuration says."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from initbench_core.networks.initializers import fill_weight_
from initbench_core.records.schema import Emission, Outcome, scalar
from initbench_core.training.setting import Setting
from initbench_core.training.together import STACK_LIMIT


@dataclass(frozen=True)
class Config:
    """A trial."""

    # "well"; "badly" raises; "unbuildable" names what does not exist; "hungry" wants more memory than there is;
    # "killed" loses its process in the first attempt, "lost" in each; "never" hangs with seed 3.
    ends: str
    seed: int


class Draws:
    """Draws a number from the seed; the death of a worker is noted in a file, where one is named."""

    name = "draws"
    runs_together = False

    def __init__(self, notes: Path | None = None) -> None:
        self.notes = notes

    def grid(self, setting: Setting) -> Sequence[Config]:
        """A trial per seed."""
        return [Config("well", seed) for seed in range(setting.seeds)]

    def weights(self, config: Config) -> int:
        """It does not say."""
        return 0

    def run(self, config: Config, setting: Setting) -> Iterator[Emission]:
        """Draw one number."""
        if config.ends == "badly":
            raise ValueError("a layer of width 0")
        if config.ends == "unbuildable":
            fill_weight_(torch.empty(2, 2), "ones")
        if config.ends == "killed" and self.notes and not self.notes.exists():
            self.notes.write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        if config.ends == "lost":
            os.kill(os.getpid(), signal.SIGKILL)
        if config.ends == "hungry":
            torch.empty(2**50, dtype=torch.uint8)
        if config.ends == "never" and config.seed == 3:
            time.sleep(1000)
        setting.progress(0.5)
        yield scalar("draw", "1", torch.rand(()).item())
        yield Outcome("trained")

    def run_together(self, configs: Sequence[Config], setting: Setting) -> Sequence[Iterator[Emission]]:
        """There is no such thing."""
        raise NotImplementedError


class DrawsTogether(Draws):
    """The same, all seeds in one go."""

    runs_together = True

    def run_together(self, configs: Sequence[Config], setting: Setting) -> Sequence[Iterator[Emission]]:
        """Draw one number per seed."""

        def draw(config: Config) -> Iterator[Emission]:
            torch.manual_seed(config.seed)
            yield from self.run(config, setting)

        if any(config.seed == 13 for config in configs):
            raise ValueError("cannot stack seed 13")
        return [draw(config) for config in configs]


class DrawsInPairs(DrawsTogether):
    """The same, where two networks fit a stack."""

    def weights(self, config: Config) -> int:
        """Half of what may train together, at four bytes each."""
        return STACK_LIMIT["cpu"] // 4 // 2
