"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_INTERVAL = 15.0  # seconds between plain lines


class Progress:
    """Tells which experiment runs, which trial, and how long it will take."""

    def __init__(self, experiments: int, console: Console | None = None) -> None:
        self.experiments = experiments
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.position = 0
        self.name = ""
        self.trials = 0
        self.finished = 0
        self.recorded = 0
        self.started = self.told = 0.0
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("trial {task.fields[trial]} of {task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, name: str, trials: int, recorded: int) -> None:
        """Begin an experiment of so many trials, of which some are recorded already."""
        self.position += 1
        self.name, self.trials, self.finished, self.recorded = name, trials, 0, recorded
        self.started = self.told = time.monotonic()
        description = f"({self.position} of {self.experiments}) {name}"
        self.task = self.bars.add_task(description, total=trials, trial=1)
        if not self.console.is_terminal:
            self.console.print(f"{description}: {trials} trials", markup=False)
        if recorded == trials:
            self.console.print("  all recorded already; --fresh measures anew", markup=False)
        elif recorded:
            self.console.print(f"  {recorded} recorded already; continuing", markup=False)

    def at_trial(self, finished: int) -> None:
        """Note how many trials are finished."""
        self.finished = finished
        self.within_trial(0.0)

    def within_trial(self, fraction: float) -> None:
        """Note the finished fraction of the current trial."""
        done = self.finished + fraction
        self.bars.update(self.task, completed=done, trial=min(self.finished + 1, self.trials))
        now = time.monotonic()
        if self.console.is_terminal or now - self.told < PLAIN_INTERVAL or done <= self.recorded:
            return
        self.told = now
        # Recorded trials take no time: what is known of the others' is their share of the time since the start.
        left = (now - self.started) / max(done - self.recorded, 1e-3) * (self.trials - done)
        trial = min(self.finished + 1, self.trials)
        self.console.print(f"  trial {trial} of {self.trials}, about {left:.0f} s left", markup=False)

    def finish(self, warnings: Sequence[str], figures: Sequence[Path]) -> None:
        """End the experiment; say what to know of it and where its figures are."""
        self.bars.remove_task(self.task)
        for warning in warnings:
            self.console.print(f"  warning: {warning}", markup=False)
        seconds = time.monotonic() - self.started
        where = ", ".join(str(path) for path in figures) or "no figure"
        self.console.print(f"  {self.name} took {seconds:.0f} s: {where}", markup=False)
