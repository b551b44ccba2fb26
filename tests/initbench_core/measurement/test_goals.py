"""The rule by which everything here is judged: an interval is within a bound, beyond it, or includes it."""

import math

import pytest

from initbench_core.measurement.goals import against


@pytest.mark.parametrize(
    ("low", "high", "bounds", "verdict"),
    [
        (1.1, 1.3, {"least": 1.1}, "met"),
        (1.09, 1.3, {"least": 1.1}, "undecided"),
        (0.9, 1.1, {"least": 1.1}, "undecided"),
        (0.9, 1.09, {"least": 1.1}, "missed"),
        (0.9, 1.1, {"most": 1.1}, "met"),
        (1.0, 1.2, {"most": 1.1}, "undecided"),
        (1.2, 1.3, {"most": 1.1}, "missed"),
        (0.9, 1.1, {"least": 0.5, "most": 2.0}, "met"),
        (math.nan, math.nan, {"least": 1.0}, "undecided"),
    ],
)
def test_an_interval_decides(low: float, high: float, bounds: dict[str, float], verdict: str) -> None:
    assert against(low, high, **bounds) == verdict
