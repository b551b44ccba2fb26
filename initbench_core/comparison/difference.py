"""A difference between two runs, with the error that it has within them."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import stdtr, stdtrit  # a hundred times as fast as stats.t for a single number

TRIM = 0.2


@dataclass(frozen=True)
class Difference:
    """B less A, on the scale on which it is tested.

    Attributes:
        center: its estimate; log(B / A) on the log scale.
        error: standard error of `center`; nan where a single number tells nothing of its noise.
        df: degrees of freedom of Student's distribution, to which center / error is held.
        is_log: whether the scale is the log scale.
        size: largest magnitude of both runs, by which a difference that is not on the log scale is divided.
    """

    center: float
    error: float
    df: float
    is_log: bool
    size: float

    @property
    def p(self) -> float:
        """Two-sided p-value; nan without an error."""
        if self.error == 0:
            # The same change for every seed leaves no doubt.
            return float(self.center == 0)
        return 2 * float(stdtr(self.df, -abs(self.center) / self.error))

    @property
    def ends(self) -> list[float]:
        """The relative change, and both ends of its 95% interval."""
        half = float(stdtrit(self.df, 0.975)) * self.error if self.error else 0.0
        return [self.relative(end) for end in (self.center, self.center - half, self.center + half)]

    def relative(self, center: float) -> float:
        """Turn a difference on this scale into a relative one, as 0.05."""
        return math.expm1(center) if self.is_log else center / self.size


def of_seeds(numbers: np.ndarray) -> Difference:
    """Compare pairs of finite numbers [seeds, 2]."""
    is_log = bool((numbers > 0).all())
    rises = np.diff(np.log(numbers) if is_log else numbers, axis=1)[:, 0]
    n = len(rises)
    error = float(rises.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Difference(float(rises.mean()), error, n - 1, is_log, float(np.abs(numbers).max()))


def of_samples(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two sets of finite repetitions, two or more each, by their 20% trimmed means (Yuen 1974)."""
    is_log = bool((a > 0).all() and (b > 0).all())
    size = float(max(np.abs(a).max(), np.abs(b).max()))
    if is_log:
        a, b = np.log(a), np.log(b)
    center = float(stats.trim_mean(b, TRIM) - stats.trim_mean(a, TRIM))
    test = stats.ttest_ind(b, a, equal_var=False, trim=TRIM)
    # Both are infinite or nan where all repetitions are equal.
    error = abs(center / test.statistic) if test.statistic and math.isfinite(test.statistic) else 0.0
    return Difference(center, float(error), float(test.df) if math.isfinite(test.df) else 1.0, is_log, size)
