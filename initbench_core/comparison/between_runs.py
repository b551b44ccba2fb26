"""Times of the same code differ from run to run, by more than their repetitions within a run show.

Where memory lies, in which state the heap is, how fast the cores run and who else uses them: a process keeps these and
the next has others. So the change log(B / A) of a time is taken for a sum, as in a random-effects model (DerSimonian
and Laird 1986): what the code changed, what drifted between the runs, and the error within them. Drift is Student's,
for most times hardly drift and a few jump. Three things tell how wide it is:

- the least scale, measured between runs of the same code (`DRIFT`);
- the other times of the kind, that is of a rule: a change of the code leaves most where they were, so that half of the
  residuals about their median lie within the quartiles (the empirical null of Efron 2004). The median is that of each
  metric: what slows a whole pass is no drift;
- the reference of a ratio, PyTorch's own code, which nobody changed: where it moved, the conditions did (a negative
  control, Schuemie et al. 2014).

Little of the drift has a direction that times share: the median of all times of a metric, which is judged too, tells of
smaller changes than one time does, if they share them.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import stdtrit

from initbench_core.comparison.difference import Difference
from initbench_core.comparison.judgement import Change

# Of 120 pairs of runs on two shared cores, eager PyTorch with its ReLU in place as what is judged, none alarms with
# these three; with a scale of 0.04 one does, and without the reference's part 35 do, 11 even at a scale of 0.08.
DF = 5
DRIFT = 0.06
# How much of what a reference moved by counts as a standard error of the ratio.
REFERENCE = 0.5
# How much of the drift times share: medians of 13 times lay apart by 0.02 where the scale was 0.06.
SHARED = 1 / 3
# So many times of a kind tell the scale of their drift, and a change is shared by so many.
TELLING, SHARED_BY = 8, 3


def widened(changes: Sequence[Change], least: float) -> list[Change]:
    """Add the drift between runs to the errors of times, and the changes that the times of a metric share.

    Args:
        changes: as `judgement.judge` returns them.
        least: scale of the drift on the log scale: at least, and where the times of a kind are too few to tell it.

    Returns:
        The changes in their order, then one for each metric of three times or more: their median.
    """
    centers = {(c.experiment, c.configuration, c.metric): c.difference.center for c in changes if c.difference}

    def moved(change: Change) -> float:
        reference = change.rule.reference if change.rule else None
        return centers.get((change.experiment, change.configuration, reference or ""), 0.0)

    result = [_with_drift(c, REFERENCE * abs(moved(c))) if kind(c) else c for c in changes]
    scales = {name: _scale(times, least) for name, times in _groups(result, kind).items()}
    result = [_with_drift(c, scales[kind(c)]) if kind(c) else c for c in result]
    for times in _groups(result, _metric).values():
        if len(times) >= SHARED_BY:
            result.append(_together(times, SHARED * scales[kind(times[0])]))
    return result


def kind(change: Change) -> str:
    """Return what the times of a kind share; nothing for what is no time or was not tested."""
    tested = change.difference
    has_drift = change.rule and change.rule.drifts and tested and tested.is_log and math.isfinite(tested.error)
    return change.rule.names if change.rule and has_drift else ""


def _metric(change: Change) -> Hashable:
    return kind(change) and (change.experiment, change.metric)


def _groups(changes: Iterable[Change], key: Callable[[Change], Hashable]) -> Mapping[Hashable, list[Change]]:
    groups = defaultdict(list)
    for change in changes:
        if key(change):
            groups[key(change)].append(change)
    return groups


def _scale(times: Sequence[Change], least: float) -> float:
    """Estimate the scale of the drift, in a robust form of Paule and Mandel's way (1982)."""
    if len(times) < TELLING:
        return least
    metrics = [_numbers(group) for group in _groups(times, _metric).values()]
    residuals = np.concatenate([np.abs(centers - np.median(centers)) for centers, _ in metrics])
    errors = np.concatenate([errors for _, errors in metrics])
    quartile = float(stdtrit(DF, 0.75))
    # At this one no residual is beyond the quartiles; at the lower end, which is no zero, half may be.
    low, high = max(least, 1e-9), float(residuals.max()) / quartile

    def excess(scale: float) -> float:
        return float(np.median(residuals / np.hypot(errors, scale))) - quartile

    return least if excess(low) <= 0 else float(brentq(excess, low, high))


def _with_drift(change: Change, scale: float) -> Change:
    own = _tested(change)
    error = math.hypot(own.error, scale)
    # Welch and Satterthwaite's: close to that of the greater part.
    df = error**4 / (own.error**4 / own.df + scale**4 / DF) if scale else own.df
    return change.by(replace(own, error=error, df=df))


def _together(times: Sequence[Change], common: float) -> Change:
    """Judge the median of times, which the few that jump do not move."""
    centers, errors = _numbers(times)
    # The large-sample error of the median of Student's distribution; what is common does not average out.
    error = float(np.median(errors)) / (2 * stats.t.pdf(0, DF) * math.sqrt(len(times)))
    median = Difference(float(np.median(centers)), math.hypot(error, common), DF, is_log=True, size=1.0)
    blank = replace(times[0], configuration=f"median of {len(times)}", a="", b="", n=len(times), is_shared=True)
    return blank.by(median)


def _numbers(times: Sequence[Change]) -> tuple[np.ndarray, np.ndarray]:
    """Return centers and errors."""
    tested = [_tested(change) for change in times]
    return np.array([d.center for d in tested]), np.array([d.error for d in tested])


def _tested(change: Change) -> Difference:
    if change.difference is None:
        raise ValueError(f"{change.metric} was not tested")
    return change.difference
