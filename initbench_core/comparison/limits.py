"""How large must the change of a time be, between these two runs, to be told from their noise?"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from initbench_core.comparison.between_runs import kind
from initbench_core.comparison.changes import FALSE_ALARM_RATE
from initbench_core.comparison.judgement import Change


@dataclass(frozen=True)
class Limit:
    """Relative changes from which on times of an experiment count, as 0.5.

    Attributes:
        experiment: its name.
        times: how many of its times were judged.
        one: for one of them, median over all.
        shared: for the median of a metric's times; None where they are too few.
    """

    experiment: str
    times: int
    one: float
    shared: float | None

    def __str__(self) -> str:
        shared = "" if self.shared is None else f", what all of a metric share from {self.shared:+.0%} on"
        return f"{self.experiment}: a time counts here from {self.one:+.0%} on (median over {self.times}){shared}"


def limits(changes: Sequence[Change]) -> list[Limit]:
    """Return the limits of each experiment's times that have a better direction.

    They are those of Holm's first step: where much changed, a little less counts.
    """
    tested = [change for change in changes if change.rule and change.rule.better and not math.isnan(change.p)]
    found: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {False: [], True: []})
    for change in tested:
        if change.difference and kind(change):
            quantile = float(stats.t.isf(FALSE_ALARM_RATE / len(tested) / 2, change.difference.df))
            found[change.experiment][change.is_shared].append(math.expm1(quantile * change.difference.error))
    return [
        Limit(name, len(of[False]), float(np.median(of[False])), float(np.median(of[True])) if of[True] else None)
        for name, of in found.items()
    ]
