"""The one bootstrap of the suite: how far a statistic would move if its samples were drawn again.

It needs numpy alone, for the checks that run where little is installed.
"""

from collections.abc import Callable, Sequence

import numpy as np


def bootstrap_interval(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic (Efron 1979).

    Args:
        samples: one or more float arrays [n] that belong together row by row: rows are drawn, so pairs stay pairs.
        statistic: maps that many arrays [resamples, n] to the statistic of each row, [resamples].
        level: of confidence.
        resamples: how many times to draw again.
        seed: of the draws, so that a report can be reproduced from its records.
    """
    n = len(samples[0])
    chosen = np.random.default_rng(seed).integers(n, size=(resamples, n))
    low, high = np.quantile(statistic(*(sample[chosen] for sample in samples)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def stratified_interval(
    strata: Sequence[np.ndarray],
    within: Callable[[np.ndarray], np.ndarray],
    across: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over strata that were sampled apart; each is drawn again apart.

    Args:
        strata: float arrays [n], each of its own length.
        within: maps [resamples, n] of one stratum to its statistic, [resamples].
        across: maps those of all strata, [strata, resamples], to [resamples].
        level: of confidence.
        resamples: how many times to draw again.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    found = [within(s[generator.integers(len(s), size=(resamples, len(s)))]) for s in strata]
    low, high = np.quantile(across(np.stack(found)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
