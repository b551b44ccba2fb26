"""Statistics: textbook values, and how often the intervals cover the truth."""

import math

import numpy as np
import pytest

from initbench_core.presentation.censored import restricted_mean
from initbench_core.presentation.statistics import (
    Interval,
    bootstrap_ratio,
    is_parity,
    ratio_text,
    verdict,
    wilson,
)
from tests import tolerances


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_the_textbooks(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert found.center == successes / n
    assert found[1:] == pytest.approx((low, high), abs=tolerances.PRINTED_FOUR)


def test_wilson_of_nothing_is_nan() -> None:
    assert all(math.isnan(v) for v in wilson(0, 0))


def test_degenerate_repetitions() -> None:
    """Fewer than five have no interval; equal ones have one without width."""
    assert bootstrap_ratio([6] * 5, [2] * 5) == pytest.approx((3, 3, 3))
    assert math.isnan(bootstrap_ratio([6] * 4, [2] * 4).high)
    assert math.isnan(bootstrap_ratio([math.nan], [2]).center)


def test_ratio_is_paired_and_geometric() -> None:
    """Seeds differ by four decades, pairs by 2 exactly."""
    seeds = np.array([1e-2, 1e-1, 1, 10, 1e2])
    assert bootstrap_ratio(2 * seeds, seeds) == pytest.approx((2, 2, 2))
    assert bootstrap_ratio([1, 100], [1, 1]).center == pytest.approx(10)


def test_a_ratio_drops_no_infinite_value() -> None:
    with pytest.raises(ValueError, match="take censored_ratio"):
        bootstrap_ratio([math.inf, 10], [5, 5])
    with pytest.raises(ValueError, match="positive"):
        bootstrap_ratio([0, 1], [1, 1])


@pytest.mark.parametrize("n", [5, 12])
def test_intervals_cover_the_truth(n: int) -> None:
    """At 5 seeds too, where a plain percentile interval covers only 85%."""
    generator = np.random.default_rng(0)
    trials, ratios, means = 200, 0, 0
    for _ in range(trials):
        seed = generator.normal(size=n)
        low, high = bootstrap_ratio(
            np.exp(seed + 0.7 + 0.3 * generator.normal(size=n)), np.exp(seed + 0.3 * generator.normal(size=n))
        )[1:]
        ratios += low <= math.exp(0.7) <= high
        low, high = restricted_mean(100 + 10 * generator.normal(size=n), budget=1e9)[1:3]
        means += low <= 100 <= high
    for hits in (ratios, means):
        assert abs(hits / trials - 0.95) < tolerances.COVERAGE


def test_verdicts_and_parity() -> None:
    assert verdict([1.0, 1.1, 0.9]) == verdict([-1.0, -1.1, -0.9]) == "decided"
    assert verdict([1.0, -1.1, 0.9]) == "not decided"
    assert verdict([1.0]) == "not decided"
    assert not is_parity(Interval(1.2, 1.1, 1.3))
    assert not is_parity(Interval(0.8, 0.7, 0.9))
    assert is_parity(Interval(1.02, 0.98, 1.05))
    assert is_parity(Interval(1.02, math.nan, math.nan))
    assert ratio_text(Interval(1.02, 0.98, 1.05)) == "parity (95% 0.98 to 1.05)"
    assert ratio_text(Interval(1.2, 1.1, 1.3)) == "1.20 (95% 1.10 to 1.30)"
    assert ratio_text(Interval(1.2, math.nan, math.nan)) == "1.20 (no interval)"
    assert ratio_text(Interval(math.nan, math.nan, math.nan)) == "no finite value"
