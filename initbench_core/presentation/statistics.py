"""What repetitions say: a mean, its interval, and whether it decides anything."""

import math
from collections.abc import Iterable

import numpy as np
from scipy import stats


def interval(values: Iterable[float], *, log: bool = False) -> tuple[float, float, float]:
    """Return mean and 95% Student interval (center, low, high) of repetitions; geometric with `log`.

    Values that are not finite (or, with `log`, not positive) are left out; outcomes count those. A single value has no
    interval: low and high are nan.
    """
    numbers = np.asarray(list(values), dtype=float)
    if log:
        numbers = np.log(numbers[numbers > 0])
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return math.nan, math.nan, math.nan
    center = float(numbers.mean())
    half = math.nan
    if len(numbers) > 1:
        half = float(stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    ends = (center, center - half, center + half)
    return (math.exp(ends[0]), math.exp(ends[1]), math.exp(ends[2])) if log else ends


def spread(values: Iterable[float], *, log: bool = False, form: str = ".3f") -> str:
    """Return "mean (95% low to high, n = 5)", or say why there is no interval."""
    numbers = [v for v in values if math.isfinite(v)]
    center, low, high = interval(numbers, log=log)
    if not numbers:
        return "no finite value"
    if len(numbers) == 1:
        return f"{center:{form}} (n = 1, no interval)"
    return f"{center:{form}} (95% {low:{form}} to {high:{form}}, n = {len(numbers)})"


def verdict(differences: Iterable[float]) -> str:
    """Say whether the interval of paired differences excludes 0."""
    _, low, high = interval(differences)
    return "decided" if low > 0 or high < 0 else "not decided"
