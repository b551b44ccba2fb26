"""What the fused operator is to reach, and the one rule that says whether it did: by the interval, never the median."""

import math
from typing import NamedTuple


class Goal(NamedTuple):
    """Forward and backward, how many times as fast as the baseline.

    Attributes:
        implementation: the project's own on a kind of device.
        mean: least geometric mean over shapes.
        least: for any one shape.
    """

    implementation: str
    mean: float
    least: float


GOALS = {"cpu": Goal("fused_eager", 1.1, 0.97), "cuda": Goal("fused_triton", 2.0, 1.0)}


def against(low: float, high: float, *, least: float = -math.inf, most: float = math.inf) -> str:
    """Return whether what lies between `low` and `high` is within bounds.

    Args:
        low: the lower end of an interval.
        high: the upper end.
        least: bound from below, inclusive.
        most: bound from above, inclusive.

    Returns:
        "met" or "missed" where the whole interval is within or beyond a bound, "undecided" where it includes one.
    """
    if least <= low and high <= most:
        return "met"
    return "missed" if high < least or most < low else "undecided"
