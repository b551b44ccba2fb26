"""The search for the largest rate finds thresholds that are known."""

import math
from collections.abc import Callable

import pytest

from initbench_core.training.rate_search import search_rate


def search(works: Callable[[float], bool], **limits: float) -> tuple[float, list[float]]:
    """Drive a search by a predicate on the rate; return what it found, and what it tried, both in log2."""
    steps = search_rate(**({"highest": 4.0, "lowest": -12.0, "stride": 2.0, "resolution": 0.25} | limits))
    tried = [next(steps)]
    while True:
        try:
            tried.append(steps.send(works(2 ** tried[-1])))
        except StopIteration as end:
            return end.value, tried


def descends(rate: float, curvature: float) -> bool:
    """Tell whether 60 steps of gradient descent on curvature / 2 * x^2 bring x nearer to 0."""
    x = 1.0
    for _ in range(60):
        x -= rate * curvature * x
    return abs(x) < 1


@pytest.mark.parametrize("curvature", [0.5, 3.0, 100.0, 4000.0])
def test_gradient_descent_is_stable_up_to_two_over_the_curvature(curvature: float) -> None:
    found, _ = search(lambda rate: descends(rate, curvature))
    assert 0 <= math.log2(2 / curvature) - found <= 0.25


def test_rates_that_work_may_be_an_interval() -> None:
    found, _ = search(lambda rate: 2**-6 < rate < 2**-1.3, resolution=0.1)
    assert -1.4 <= found < -1.3


def test_it_never_tries_a_rate_twice() -> None:
    _, tried = search(lambda rate: rate < 0.3, resolution=0.01)
    assert len(tried) == len(set(tried))


def test_where_the_highest_rate_works_it_is_the_answer() -> None:
    assert search(lambda rate: True) == (4.0, [4.0])


def test_where_none_works_there_is_none() -> None:
    found, tried = search(lambda rate: False)
    assert found == -math.inf
    assert tried == [4.0, 2.0, 0.0, -2.0, -4.0, -6.0, -8.0, -10.0, -12.0]
