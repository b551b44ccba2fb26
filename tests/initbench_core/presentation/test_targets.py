"""Targets are judged by intervals: one case too few, or one that is open, and they are not met."""

import numpy as np
import pandas as pd
import pytest

from initbench_core.presentation.statistics import Interval
from initbench_core.presentation.targets import UNMEASURED, Target, of_speedups

GOOD, OPEN, BAD = Interval(1.2, 1.1, 1.3), Interval(1.2, 0.9, 1.5), Interval(0.8, 0.7, 0.9)


@pytest.mark.parametrize(
    ("cases", "verdict", "worst"),
    [
        ({"a": GOOD}, "met", "a"),
        ({"a": GOOD, "b": OPEN}, "undecided", "a"),
        ({"a": OPEN, "b": UNMEASURED}, "not measured", "a"),
        ({"a": UNMEASURED, "b": BAD, "c": GOOD}, "missed", "b"),
        ({"a": UNMEASURED}, "not measured", ""),
        ({}, "not measured", ""),
    ],
)
def test_the_worst_case_is_the_verdict(cases: dict[str, Interval], verdict: str, worst: str) -> None:
    target = Target("at least 1", cases, least=1.0)
    assert target.verdict == verdict
    assert target.worst[0] == worst
    assert f"  {verdict}" in str(target)
    assert (f"(at {worst})" in str(target)) == (len(cases) > 1)
    assert sum(target.count(name) for name in ("met", "undecided", "missed", "not measured")) == len(cases)


def test_a_bound_from_above_turns_it_round() -> None:
    target = Target("at most 1", {"a": GOOD, "b": BAD}, most=1.0)
    assert target.verdict == "missed"
    assert target.worst == ("a", GOOD)
    assert " ".join(str(target).split()) == "at most 1 1.200 [1.100, 1.300] missed (at a)"


def test_speed_ups_have_a_mean_and_a_least() -> None:
    """What is missing at one shape leaves the mean of the others, and the least without a verdict."""
    steady, missing = np.full(20, 1.5), {"case": "c", "speed-up": np.nan, "low": np.nan, "high": np.nan}
    row = {"speed-up": 1.5, "low": 1.5, "high": 1.5, "ratios": steady}
    rows = pd.DataFrame([{"case": "a", **row}, {"case": "b", **row}])
    mean, every = of_speedups(rows, "eager", 1.4, 1.5)
    assert (mean.verdict, every.verdict) == ("met", "met")
    assert mean.worst[1].center == pytest.approx(1.5)
    mean, every = of_speedups(pd.DataFrame([*rows.to_dict("records"), missing]), "eager", 1.6, 1.0)
    assert (mean.verdict, every.verdict) == ("missed", "not measured")
    mean, every = of_speedups(pd.DataFrame([missing]), "eager", 1.6, 1.0)
    assert (mean.verdict, every.verdict) == ("not measured", "not measured")
