"""What the fused operator and the fills are to reach, and the rule that says whether: by interval, not by median."""

import math
from typing import NamedTuple

import numpy as np

from initbench_core.measurement.timing import estimate


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

# A fill of a whole model, times as fast as a loop of torch.nn.init: on CUDA by kind of workload; on two CPU threads and
# from a million values on by distribution and by whether torch's stateless operators draw the words. None was set for
# the truncated normal.
CUDA_FILLS = {"mlp": 20.0, "resnet50": 5.0, "tensor": 1.0}
CPU_FILLS = {("uniform", True): 1.0, ("normal", True): 1 / 4, ("uniform", False): 1 / 12, ("normal", False): 1 / 12}
CPU_ELEMENTS, CPU_THREADS = 1_000_000, 2


def fill_goal(
    workload: str, distribution: str, stateless: bool, device: str, elements: int, threads: int
) -> float | None:
    """Return how many times as fast as the loop a fill shall be at least, or None where no target was set."""
    if device != "cpu":
        return CUDA_FILLS[workload.partition("_")[0]]
    if elements < CPU_ELEMENTS or threads != CPU_THREADS:
        return None
    return CPU_FILLS.get((distribution, stateless))


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


def is_open(theirs: np.ndarray | list[float], ours: np.ndarray | list[float], least: float) -> bool:
    """Tell whether times of the same rounds leave it undecided if `ours` is at least `least` times as fast."""
    ratio = estimate(np.divide(theirs, ours))
    return against(ratio.low, ratio.high, least=least) == "undecided"
