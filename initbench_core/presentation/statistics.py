"""What repetitions say: a center, its 95% interval, and whether it decides anything.

Means and differences get Student's interval, ratios and times a bootstrap on the log scale, fractions Wilson's. What is
known as a bound only, as steps to a target that was not reached, is `censored`'s.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from initbench_core.measurement.bootstrap import bootstrap_interval

Numbers = Sequence[float] | np.ndarray | pd.Series

# A bootstrap stays within the range of its values, which holds the center of n values with a chance of 1 - 2^(1 - n):
# 94% of 5, 87% of 4. Fewer have no interval.
FEWEST = 5


class Interval(NamedTuple):
    """A center and its 95% interval; `low` and `high` are nan where there are too few repetitions for one."""

    center: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """Return "center (95% low to high)", each number in the format `form`; or say what is missing."""
        if math.isnan(self.center):
            return "no finite value"
        if not math.isfinite(self.low):
            return f"{self.center:{form}} (no interval)"
        return f"{self.center:{form}} (95% {self.low:{form}} to {self.high:{form}})"


def interval(values: Iterable[float], *, log: bool = False) -> Interval:
    """Return mean and 95% Student interval of repetitions; geometric with `log`.

    Values that are not finite (or, with `log`, not positive) are left out; outcomes count those. A single value has no
    interval: low and high are nan.
    """
    numbers = np.asarray(list(values), dtype=float)
    if log:
        numbers = np.log(numbers[numbers > 0])
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return Interval(math.nan, math.nan, math.nan)
    center = float(numbers.mean())
    half = math.nan
    if len(numbers) > 1:
        half = float(stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    ends = Interval(center, center - half, center + half)
    return Interval(*map(math.exp, ends)) if log else ends


def spread(values: Iterable[float], *, log: bool = False, form: str = ".3f") -> str:
    """Return "mean (95% low to high, n = 5)", or say why there is no interval."""
    numbers = [v for v in values if math.isfinite(v)]
    center, low, high = interval(numbers, log=log)
    if not numbers:
        return "no finite value"
    if len(numbers) == 1:
        return f"{center:{form}} (n = 1, no interval)"
    return f"{center:{form}} (95% {low:{form}} to {high:{form}}, n = {len(numbers)})"


def wilson(successes: int, n: int) -> Interval:
    """Return the fraction successes / n with Wilson's 95% interval; nan for n = 0 (Wilson 1927)."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    ends = stats.binomtest(int(successes), int(n)).proportion_ci(0.95, method="wilson")
    return Interval(successes / n, float(ends.low), float(ends.high))


def expanded_level(n: int) -> float:
    """Return the level at which a percentile interval over n values covers 95%.

    A bootstrap of few values is too narrow, by sqrt((n - 1) / n) and for taking the normal's quantile in place of
    Student's; this is the "expanded percentile interval" of Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", section 5.3.
    """
    quantile = math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)
    return float(2 * stats.norm.cdf(quantile) - 1)


def _geometric(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(np.mean(np.log(numerator) - np.log(denominator), axis=-1)))


def _of_means(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean(numerator, axis=-1) / np.mean(denominator, axis=-1))


def bootstrap_ratio(a: Numbers, b: Numbers, *, of_means: bool = False) -> Interval:
    """Return how many times `b` is `a`, a / b, with a paired 95% bootstrap interval on the log scale (n >= 5).

    Args:
        a: one positive number per repetition.
        b: the same repetitions of another configuration; entry i has the seed of entry i of `a`. Pairs that hold a nan
            are left out.
        of_means: the ratio of the means, in place of the geometric mean of the pairs' ratios.

    Raises:
        ValueError: of different lengths, not positive, or infinite: what is censored goes to `censored_ratio`.
    """
    pair = np.stack([np.asarray(a, dtype=float), np.asarray(b, dtype=float)])
    pair = pair[:, ~np.isnan(pair).any(axis=0)]
    if np.isinf(pair).any():
        raise ValueError("an infinite value is censored, and dropping it would flatter a side: take censored_ratio")
    if (pair <= 0).any():
        raise ValueError("a ratio on the log scale needs positive numbers")
    n = pair.shape[1]
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    statistic = _of_means if of_means else _geometric
    center = float(statistic(*pair))
    if n < FEWEST:
        return Interval(center, math.nan, math.nan)
    return Interval(center, *bootstrap_interval(list(pair), statistic, level=expanded_level(n)))


def verdict(differences: Iterable[float]) -> str:
    """Say whether the interval of paired differences excludes 0."""
    return "decided" if separates(interval(differences), 0.0) else "not decided"


def separates(found: Interval, neutral: float) -> bool:
    """Tell whether an interval excludes the value of no difference: 0 for differences, 1 for ratios."""
    return found.low > neutral or found.high < neutral


def is_parity(ratio: Interval) -> bool:
    """Tell whether a ratio's interval includes 1 (or there is none): no difference is shown."""
    return not separates(ratio, 1.0)


def ratio_text(ratio: Interval, form: str = ".2f") -> str:
    """Return "1.90 (95% 1.70 to 2.10)", or "parity (95% 0.97 to 1.04)" where the interval includes 1."""
    if is_parity(ratio) and math.isfinite(ratio.low):
        return f"parity (95% {ratio.low:{form}} to {ratio.high:{form}})"
    return f"{ratio:{form}}"
