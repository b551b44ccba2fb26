"""How a training ended, in the classes of `records.schema.OUTCOMES`, decided here and nowhere else.

| class | definition |
| --- | --- |
| diverged | a loss or parameter is not finite, or a loss is above 1,000 times the first one |
| stalled | the final loss is not 1% better than the constant predictor's |
| trained | the target was reached |
| slow | better than the constant predictor, but short of the target |
| learned | better than the constant predictor; there was no target |

The constant predictor ignores its input: it answers the mean (loss: the variance of y) or the class frequencies
(loss: their entropy, log K for K equal classes).
"""

import math

from initbench_core.records.schema import Outcome

DIVERGED_FACTOR = 1e3
STALLED_MARGIN = 0.01


def is_bad(loss: float, first_loss: float) -> bool:
    """Tell whether a loss shows divergence."""
    return not math.isfinite(loss) or loss > DIVERGED_FACTOR * max(first_loss, 0.0)


def classify(
    *, first_bad_step: int | None, final_loss: float, constant_loss: float, reached_target: bool | None
) -> Outcome:
    """Return the outcome of a training.

    Args:
        first_bad_step: the step, counted from 1, at which it diverged; None if it did not.
        final_loss: loss over the training split at the end, in evaluation mode.
        constant_loss: training loss of the constant predictor.
        reached_target: whether the target was reached at any evaluation; None where there was none.
    """
    if first_bad_step is not None:
        return Outcome("diverged", first_bad_step)
    if final_loss >= (1 - STALLED_MARGIN) * constant_loss:
        return Outcome("stalled")
    if reached_target is None:
        return Outcome("learned")
    return Outcome("trained" if reached_target else "slow")
