"""Numbers of which only a bound is known: steps to a target that was not reached, rates beyond those searched.

Such a number is never dropped. Steps count as the budget (restricted mean) or as still unsolved (survival curve), a
rate as the end of the search. A ratio then is a bound, and says so.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from initbench_core.measurement.bootstrap import bootstrap_interval
from initbench_core.presentation.statistics import (
    FEWEST,
    Interval,
    Numbers,
    bootstrap_ratio,
    expanded_level,
    ratio_text,
)

# What is known of a ratio, by whether the true one may lie above and below that of the numbers as they count.
MEASURED, AT_LEAST, AT_MOST, UNKNOWN = "", "at least", "at most", "not known"
BOUNDS = {(False, False): MEASURED, (True, False): AT_LEAST, (False, True): AT_MOST, (True, True): UNKNOWN}


class Ratio(NamedTuple):
    """How many times one configuration is another, as far as that is known.

    Attributes:
        center: the ratio of the numbers as they count.
        low: lower end of its 95% interval; nan where there are too few repetitions.
        high: upper end.
        bound: "" where that is the ratio itself, "at least" or "at most" where one side holds censored numbers, "not
            known" where it may be off either way.
    """

    center: float
    low: float
    high: float
    bound: str

    def __format__(self, form: str) -> str:
        """Return "1.90 (95% 1.70 to 2.10)" or "parity (...)"; "at least 1.90 (...)"; or "not known"."""
        found = Interval(self.center, self.low, self.high)
        if self.bound == UNKNOWN:
            return UNKNOWN
        return f"{self.bound} {found:{form}}" if self.bound else ratio_text(found, form)

    def brief(self, form: str) -> str:
        """Return it without its interval: "1.90", "at least 1.90" or "not known"."""
        return UNKNOWN if self.bound == UNKNOWN else f"{self.bound} {self.center:{form}}".strip()

    @property
    def is_above(self) -> bool:
        """Whether the interval shows a ratio above 1: a bound from above cannot."""
        return self.low > 1 and self.bound in (MEASURED, AT_LEAST)

    @property
    def is_below(self) -> bool:
        """Whether the interval shows a ratio below 1: a bound from below cannot."""
        return self.high < 1 and self.bound in (MEASURED, AT_MOST)

    @property
    def separated(self) -> str:
        """Whether the two are told apart: "yes", "no", or "no interval"."""
        return "yes" if self.is_above or self.is_below else "no" if math.isfinite(self.low) else "no interval"


def censored_ratio(
    a: Numbers, b: Numbers, *, lowest: float = 0.0, highest: float = math.inf, of_means: bool = False
) -> Ratio:
    """Return how many times `b` is `a`, a / b, of numbers that were looked for from `lowest` to `highest`.

    Args:
        a: one positive number per repetition; beyond an end (0 and inf are) it is censored and counts as that end.
        b: the same repetitions of another configuration; entry i has the seed of entry i of `a`.
        lowest: the smallest number that can be found.
        highest: the largest one.
        of_means: as `bootstrap_ratio`'s.

    Raises:
        ValueError: as `bootstrap_ratio`'s, or a nan: what was not found is 0 or inf.
    """
    pair = np.stack([_numbers(a), _numbers(b)])
    more, less = ([bool(side.any()) for side in beyond] for beyond in (pair > highest, pair < lowest))
    found = bootstrap_ratio(*np.clip(pair, lowest, highest), of_means=of_means)
    return Ratio(*found, BOUNDS[more[0] or less[1], less[0] or more[1]])


def steps_ratio(a: Numbers, b: Numbers, budget: float) -> Ratio:
    """Return how many times the steps (or epochs) `b` to a target `a` are: the ratio of their restricted means.

    Args:
        a: one number per trial; inf, or more than the budget, is censored.
        b: the same seeds of another configuration.
        budget: what every trial was given.

    Raises:
        ValueError: as `censored_ratio`'s.
    """
    return censored_ratio(a, b, highest=budget, of_means=True)


def _numbers(values: Numbers) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    if np.isnan(numbers).any():
        raise ValueError("steps to a target are a number, or inf where it was not reached")
    return numbers


class RestrictedMean(NamedTuple):
    """The mean of min(steps, budget), its 95% interval, and how many of `n` trials reached the target."""

    center: float
    low: float
    high: float
    reached: int
    n: int

    def __format__(self, form: str) -> str:
        """Return "center (95% low to high; reached by 4 of 5)"; "at least" where a trial is censored."""
        least = f"{AT_LEAST} " if self.reached < self.n else ""
        # Where no trial got there, the interval is the budget alone and says nothing.
        ends = f"95% {self.low:{form}} to {self.high:{form}}; " if math.isfinite(self.low) and self.reached else ""
        return f"{least}{self.center:{form}} ({ends}reached by {self.reached} of {self.n})"


def restricted_mean(steps: Numbers, budget: float) -> RestrictedMean:
    """Return the restricted mean of steps (or epochs, or seconds) to a target, with a 95% bootstrap interval (n >= 5).

    Args:
        steps: one number per trial; inf, or more than the budget, is censored at the budget and counts as it.
        budget: what every trial was given.

    Raises:
        ValueError: a nan among the steps.
    """
    numbers = _numbers(steps)
    reached, n = int((numbers <= budget).sum()), len(numbers)
    counted = np.minimum(numbers, budget)
    low = high = math.nan
    if n >= FEWEST:
        low, high = bootstrap_interval([counted], lambda drawn: drawn.mean(axis=-1), level=expanded_level(n))
    return RestrictedMean(float(counted.mean()) if n else math.nan, low, high, reached, n)


class Survival(NamedTuple):
    """A Kaplan-Meier curve: `unsolved[i]` of the trials remain from `steps[i]` on; both start at (0, 1).

    `censored` are the steps at which trials were given up, one entry each.
    """

    steps: np.ndarray
    unsolved: np.ndarray
    censored: np.ndarray


def survival(steps: Numbers, budget: Numbers | float) -> Survival:
    """Return the fraction of trials still unsolved after so many steps (Kaplan & Meier 1958).

    Args:
        steps: one number per trial; inf, or more than the budget, is censored at the budget.
        budget: of all trials, or of each.

    Raises:
        ValueError: no trials, or a nan among the steps.
    """
    numbers = np.asarray(steps, dtype=float)
    if not len(numbers) or np.isnan(numbers).any():
        raise ValueError("a survival curve needs trials, each with a number of steps or inf")
    budgets = np.broadcast_to(np.asarray(budget, dtype=float), numbers.shape)
    is_censored = numbers > budgets
    censored = np.sort(budgets[is_censored])
    curve = stats.ecdf(stats.CensoredData(uncensored=numbers[~is_censored], right=censored)).sf
    return Survival(np.r_[0.0, curve.quantiles], np.r_[1.0, curve.probabilities], censored)
