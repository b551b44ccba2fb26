"""Is a metric of one configuration worse in the second run, better, or the same within noise?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from initbench_core.comparison.difference import Difference, of_samples, of_seeds
from initbench_core.comparison.rules import Rule
from initbench_core.comparison.series import Series


@dataclass(frozen=True)
class Change:
    """What became of one metric of one configuration.

    Attributes:
        verdict: "worse", "better", "changed" (no direction is better, or the noise is unknown) or "same".
        experiment: its name.
        configuration: the fields that tell it from the others of its run, as "norm=before, depth=10".
        metric: its name, or "outcome".
        a: what the first run measured, as text.
        b: what the second run measured.
        relative: B / A - 1, or the difference over the larger of both where not all numbers are positive; nan where
            there is none.
        low: lower end of its 95% interval.
        high: upper end.
        n: seeds or repetitions that were compared.
        p: of the test, before Holm's correction; nan where nothing was tested.
        rule: of the metric; None for outcomes and failed trials.
        difference: what was tested; None where nothing was.
        is_shared: whether it is the median of a metric's configurations.
    """

    verdict: str
    experiment: str
    configuration: str
    metric: str
    a: str
    b: str
    relative: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 1
    p: float = math.nan
    rule: Rule | None = None
    difference: Difference | None = None
    is_shared: bool = False

    def by(self, difference: Difference) -> "Change":
        """Return the change as a difference has it; its direction is that of the rule."""
        rule = self.rule or Rule("")
        relative, low, high = difference.ends
        verdict = direction(rule, difference.center) if math.isfinite(difference.error) else "changed"
        return replace(
            self, verdict=verdict, relative=relative, low=low, high=high, p=difference.p, difference=difference
        )


def judge(blank: Change, rule: Rule, pairs: Sequence[tuple[Series, Series]]) -> Change:
    """Fill in a change, yet without Holm's correction.

    Args:
        blank: with experiment, configuration and metric.
        rule: of the metric.
        pairs: both runs' series of each seed.
    """
    numbers = np.array([[series.number for series in pair] for pair in pairs])
    a, b = _centers(numbers)
    shown = replace(blank, n=len(pairs), a=a, b=b, rule=rule)
    if all(np.array_equal(a.values, b.values, equal_nan=True) for a, b in pairs):
        return shown
    finite = np.isfinite(numbers)
    if (finite[:, 0] != finite[:, 1]).any():
        lost = int(finite[:, 0].sum() - finite[:, 1].sum())
        counts = [f"{count} of {len(pairs)} finite" for count in finite.sum(axis=0)]
        # As many lost as gained: the trials changed, the metric did not.
        verdict = "changed" if rule.better is None or lost == 0 else "worse" if lost > 0 else "better"
        return replace(shown, verdict=verdict, a=counts[0], b=counts[1])
    numbers = numbers[finite.all(axis=1)]
    if not len(numbers):
        return shown
    if rule.is_exact:
        rise = numbers[:, 1] - numbers[:, 0]
        # One trial that got worse is not made up for by another.
        worst = rise[np.argmax(rise if rule.better == "lower" else -rise)]
        return replace(shown, verdict=direction(rule, worst or rise.sum())) if rise.any() else shown
    if len(pairs) == 1 and all(series.is_repeated and len(series.values) > 1 for series in pairs[0]):
        samples = [series.values for series in pairs[0]]
        return replace(shown, n=min(map(len, samples))).by(of_samples(*samples))
    return replace(shown, n=len(numbers)).by(of_seeds(numbers))


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Tell which hypotheses fall, at a family-wise error rate of `level`; nan is no hypothesis (Holm 1979)."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    rejected = [False] * len(p_values)
    for rank, (p, i) in enumerate(tested):
        if p > level / (len(tested) - rank):
            break
        rejected[i] = True
    return rejected


def direction(rule: Rule, rise: float) -> str:
    """Name a change by its sign and the metric's better direction."""
    if rule.better is None or rise == 0:
        return "changed"
    return "better" if (rise < 0) == (rule.better == "lower") else "worse"


def _centers(numbers: np.ndarray) -> tuple[str, str]:
    finite = numbers[np.isfinite(numbers).all(axis=1)]
    if not len(finite):
        return "not finite", "not finite"
    a, b = stats.gmean(finite, axis=0) if (finite > 0).all() else finite.mean(axis=0)
    return f"{a:.4g}", f"{b:.4g}"
