"""The largest learning rate that works, by bisection of its logarithm."""

import math
from collections.abc import Generator


def search_rate(*, highest: float, lowest: float, stride: float, resolution: float) -> Generator[float, bool, float]:
    """Search for the largest rate that works: down from the highest by strides, then by bisection.

    A generator, so that searches of several networks can advance side by side: it yields log2 of the rate to try, and
    is sent whether that rate works. It starts from above because the rates that work are an interval: those far below
    it are stable, but learn nothing within a short training.

    Args:
        highest: log2 of the first rate to try.
        lowest: log2 below which the search gives up.
        stride: of the descent, in log2.
        resolution: distance in log2 at which the bisection ends.

    Returns:
        log2 of the largest rate found to work, at most `resolution` below the smallest found not to: `highest` where
        that one works, -inf where none down to `lowest` does.
    """
    works = highest
    while not (yield works):
        works -= stride
        if works < lowest:
            return -math.inf
    fails = works + stride if works < highest else works
    while fails - works > resolution:
        middle = (works + fails) / 2
        if (yield middle):
            works = middle
        else:
            fails = middle
    return works
