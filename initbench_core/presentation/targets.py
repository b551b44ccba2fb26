"""Targets and what was measured of them, for every command and experiment that judges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from initbench_core.measurement.goals import against
from initbench_core.presentation import speed
from initbench_core.presentation.statistics import Interval

UNMEASURED = Interval(math.nan, math.nan, math.nan)
# The first that any case has is the target's.
VERDICTS = ("missed", "not measured", "undecided", "met")


@dataclass(frozen=True)
class Target:
    """A bound that one number keeps, or each of several.

    Attributes:
        text: what is bounded, and by what.
        cases: what was measured, with its interval, by name; `UNMEASURED` where something is missing.
        least: bound from below.
        most: bound from above.
    """

    text: str
    cases: Mapping[str, Interval]
    least: float = -math.inf
    most: float = math.inf

    def count(self, verdict: str) -> int:
        """Return how many cases have a verdict, one of `VERDICTS`."""
        return sum(self._judge(found) == verdict for found in self.cases.values())

    @property
    def verdict(self) -> str:
        """Return the worst verdict of any case, "not measured" of none."""
        return next((v for v in VERDICTS if self.count(v)), "not measured")

    @property
    def worst(self) -> tuple[str, Interval]:
        """Return the case that is furthest on the wrong side, or the nearest to it, with its name."""
        sign = 1 if math.isfinite(self.least) else -1
        measured = [case for case in self.cases.items() if math.isfinite(case[1].center)]
        return min(measured, key=lambda case: sign * case[1].center, default=("", UNMEASURED))

    def __str__(self) -> str:
        """Return a line: target, value (of several the worst, and where), verdict."""
        name, found = self.worst
        value = f"{found.center:.3f} [{found.low:.3f}, {found.high:.3f}]" if name else ""
        where = f" (at {name})" if len(self.cases) > 1 and name else ""
        return f"{self.text:64} {value:>22}  {self.verdict}{where}"

    def _judge(self, found: Interval) -> str:
        if not math.isfinite(found.center):
            return "not measured"
        return against(found.low, found.high, least=self.least, most=self.most)


def of_speedups(rows: pd.DataFrame, over: str, mean: float, least: float) -> tuple[Target, Target]:
    """Return the targets of forward and backward: the geometric mean over shapes, and every shape.

    Args:
        rows: of `speed.speedups`, one a shape; without a speed-up where that is not measured.
        over: what the speed-ups are over, as text.
        mean: least geometric mean.
        least: for any one shape.
    """
    cases = {row["case"]: Interval(row["speed-up"], row["low"], row["high"]) for _, row in rows.iterrows()}
    measured = rows.dropna(subset="speed-up")
    center = speed.mean_speedup(measured) if len(measured) else UNMEASURED
    return (
        Target(f"times as fast as {over}, geometric mean: >= {mean:g}", {"mean": center}, least=mean),
        Target(f"times as fast as {over}, every shape: >= {least:g}", cases, least=least),
    )
