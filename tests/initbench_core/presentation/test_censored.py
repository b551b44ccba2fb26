"""What is known as a bound only: curves worked out by hand, and what a ratio of censored numbers may claim."""

import math

import pytest

from initbench_core.presentation.censored import censored_ratio, restricted_mean, steps_ratio, survival

INF = math.inf


def test_survival_by_hand() -> None:
    """Solved at 1, 3, 3 and 5; given up at 2 and at 6: the factors are 5/6, 2/4 and 1/2."""
    curve = survival([1, math.inf, 3, 3, 5, math.inf], [9, 2, 9, 9, 9, 6])
    assert dict(zip(curve.steps, curve.unsolved, strict=True)) == pytest.approx(
        {0: 1, 1: 5 / 6, 2: 5 / 6, 3: 5 / 12, 5: 5 / 24, 6: 5 / 24}
    )
    assert curve.censored.tolist() == [2, 6]


def test_survival_of_the_unsolved_and_the_solved() -> None:
    never = survival([math.inf, math.inf], 100)
    assert never.unsolved.tolist() == [1, 1]
    assert survival([4.0], 100).unsolved.tolist() == [1, 0]
    with pytest.raises(ValueError, match="needs trials"):
        survival([], 100)


def test_a_censored_trial_counts_as_the_budget() -> None:
    found = restricted_mean([10, 20, math.inf, 40, 30], budget=100)
    assert (found.center, found.reached, found.n) == (40, 4, 5)
    assert 10 <= found.low < 40 < found.high <= 100
    assert f"{found:.0f}".startswith("at least 40 (95% ")
    assert f"{found:.0f}".endswith("reached by 4 of 5)")
    with pytest.raises(ValueError, match="inf where it was not reached"):
        restricted_mean([1, math.nan], budget=100)


def test_restricted_means_of_few_and_of_equal_steps() -> None:
    assert math.isnan(restricted_mean([10, 11, 12, 13], 100).low)
    assert restricted_mean([10] * 5, 100)[:3] == (10, 10, 10)


@pytest.mark.parametrize(
    ("a", "b", "bound", "text"),
    [
        ([50] * 5, [10] * 5, "", "5.0 (95% 5.0 to 5.0)"),
        ([50, 50, 50, 50, INF], [12] * 5, "at least", "at least 5.0 (95% "),
        ([12] * 5, [50, 50, 50, 50, INF], "at most", "at most 0.2 (95% "),
        ([INF] * 5, [INF] * 5, "not known", "not known"),
        ([50, 50, 50, 50, INF], [INF, 10, 10, 10, 10], "not known", "not known"),
        # Reached with the last step of the budget.
        ([100] * 5, [10] * 5, "", "10.0 (95% 10.0 to 10.0)"),
        ([9, 10, 11, 10, 10], [10] * 5, "", "parity (95% "),
        # A bound is never parity, whatever its interval includes.
        ([9, 10, 11, 10, 200], [30, 28, 29, 30, 31], "at least", "at least 0.9 (95% "),
        ([INF, 50], [10, 20], "at least", "at least 5.0 (no interval)"),
    ],
)
def test_a_ratio_of_steps_is_a_bound_where_a_side_is_censored(
    a: list[float], b: list[float], bound: str, text: str
) -> None:
    ratio = steps_ratio(a, b, 100)
    assert ratio.bound == bound
    assert f"{ratio:.1f}".startswith(text)


def test_a_bound_shows_a_difference_only_on_its_own_side() -> None:
    """Its interval may lie above 1 and a bound from above still says nothing."""
    five = [50, 60, 50, 60, 50]
    assert steps_ratio(five, [10] * 5, 100).separated == "yes"
    more, late = steps_ratio([INF] * 5, five, 100), steps_ratio([95] * 5, [30, 30, 30, 30, INF], 100)
    assert (more.is_above, more.is_below, more.separated) == (True, False, "yes")
    assert late.low > 1
    assert (late.bound, late.is_above, late.separated) == ("at most", False, "no")
    fewer = steps_ratio(five, [INF] * 5, 100)
    assert (fewer.is_above, fewer.is_below, fewer.separated) == (False, True, "yes")
    both = steps_ratio([INF, 95, 95, 95, 95], [30, 30, 30, 30, INF], 100)
    assert both.low > 1
    assert both.separated == "no"
    assert steps_ratio([90], [10], 100).separated == "no interval"


def test_a_search_is_censored_at_both_of_its_ends() -> None:
    """Rates from 1 to 16: 0 where none works, inf where the highest does."""
    cases = {
        "4.0": ([8.0] * 5, [2.0] * 5),
        "at least 8.0": ([8.0] * 5, [0.0] * 5),
        "at most 0.5": ([0.0] * 5, [2.0] * 5),
        "at least 2.0": ([INF] * 5, [8.0] * 5),
        "at most 0.1": ([1.0] * 5, [INF] * 5),
        "at least 16.0": ([INF] * 5, [0.0] * 5),
        "not known": ([0.0] * 5, [0.0] * 5),
    }
    for text, (a, b) in cases.items():
        assert censored_ratio(a, b, lowest=1, highest=16).brief(".1f") == text


def test_what_was_not_found_is_no_nan() -> None:
    with pytest.raises(ValueError, match="inf where it was not reached"):
        steps_ratio([1, math.nan], [1, 1], 100)
