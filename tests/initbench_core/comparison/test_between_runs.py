"""Times of the same code in another run: they do not alarm, and what the code changed does."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from initbench_core.comparison import changes as changes_module
from initbench_core.comparison.between_runs import DF, DRIFT, widened
from initbench_core.comparison.changes import settled
from initbench_core.comparison.difference import Difference
from initbench_core.comparison.judgement import Change
from initbench_core.comparison.limits import limits
from initbench_core.comparison.rules import rule_for

PASSES = ("fwd_train", "bwd", "fwd_bwd", "eval")
SHAPES = 13
ERROR = 0.03
Slow = Callable[[str, int], float]


def change(metric: str, center: float, shape: int = 0, error: float = ERROR) -> Change:
    rule = rule_for(metric)
    name = f"{metric} / {rule.reference}" if rule.reference else metric
    blank = Change("same", "speed", f"shape={shape}", name, "", "", rule=rule)
    return blank.by(Difference(center, error, 10, is_log=True, size=1.0))


def two_runs(generator: np.random.Generator, slow: Slow = lambda name, shape: 1.0) -> list[Change]:
    """Invent what two runs find of 13 shapes and four passes, as measured on two shared cores.

    Most ratios drift by 3%. In three of a hundred eager PyTorch itself takes half or twice its time, and the ratio
    moves by 1.5; in one of a hundred ours alone moves by 1.25. All times are longer by 10% in one of the runs.
    """
    found = []
    for name in PASSES:
        for shape in range(SHAPES):
            eager = generator.choice([0.0, 0.7, -0.7], p=[0.97, 0.015, 0.015])
            ours = generator.choice([0.0, 0.22, -0.22], p=[0.99, 0.005, 0.005])
            drift = generator.normal(0, math.hypot(0.03, ERROR)) + ours - 0.6 * eager
            planted = math.log(slow(name, shape))
            found.append(change(f"time[{name}, fused_eager]", drift + planted, shape))
            found.append(change(f"time[{name}, eager]", 0.1 + eager + generator.normal(0, ERROR), shape))
    return found


def worse(changes: list[Change]) -> list[Change]:
    return [c for c in settled(changes, min_difference=0.05) if c.verdict == "worse"]


def test_the_same_code_rarely_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """In at most one of twenty comparisons, by the upper end of a 95% interval; without drift in most."""
    generator = np.random.default_rng(0)
    runs = [two_runs(generator) for _ in range(200)]
    alarms = stats.binomtest(sum(bool(worse(found)) for found in runs), len(runs))
    assert alarms.proportion_ci(0.95).high <= 0.05
    monkeypatch.setattr(changes_module, "widened", lambda changes, least: changes)
    assert sum(bool(worse(found)) for found in runs) > len(runs) / 2


@pytest.mark.parametrize(
    ("slow", "found_in"),
    [
        # A cell whose own reference moved is not told from noise.
        (lambda name, shape: 2.0 if (name, shape) == ("bwd", 3) else 1.0, "shape=3"),
        (lambda name, shape: 2.0 if shape == 3 else 1.0, "shape=3"),
        (lambda name, shape: 1.5 if name == "bwd" else 1.0, "median of 13"),
        (lambda name, shape: 1.5, "median of 13"),
    ],
    ids=["one time twice as slow", "one shape twice as slow", "a pass 1.5 times as slow", "all 1.5 times as slow"],
)
def test_a_planted_regression_is_found(slow: Slow, found_in: str) -> None:
    """In 90 of 100 comparisons or more."""
    generator = np.random.default_rng(1)
    runs = [worse(two_runs(generator, slow)) for _ in range(100)]
    assert sum(found_in in [c.configuration for c in found] for found in runs) >= 90
    assert all("bwd" in c.metric or slow("eval", 3) > 1 for found in runs for c in found)


def test_what_moved_the_reference_is_no_regression() -> None:
    """A ratio that jumps by 1.7, alone and beside a reference that jumped too."""
    quiet = [change("fill_ms", 0.01 * (-1) ** shape, shape) for shape in range(1, 12)]
    jumped = change("fill_ms", math.log(1.7))
    assert [c.configuration for c in worse([jumped, *quiet])] == ["shape=0"]
    assert not worse([jumped, change("torch_ms", -0.6), *quiet])


def scale(centers: np.ndarray, error: float = ERROR, least: float = 0.01) -> float:
    """Return the drift that is added to the error of each of some times."""
    found = widened([change("fill_ms", center, shape, error) for shape, center in enumerate(centers)], least)
    own = found[0].difference
    assert own is not None
    return math.sqrt(own.error**2 - error**2)


def test_the_scale_of_the_drift() -> None:
    """It is that of a Student distribution beside the errors, whatever all share and a few do more."""
    generator = np.random.default_rng(2)
    centers = stats.t.rvs(DF, scale=0.2, size=2000, random_state=generator) + generator.normal(0, ERROR, 2000)
    assert scale(centers) == pytest.approx(0.2, rel=0.1)
    assert scale(centers + math.log(3)) == pytest.approx(scale(centers))
    slowed = centers + np.where(np.arange(2000) < 200, math.log(3), 0)
    assert scale(slowed) == pytest.approx(0.2, rel=0.25)
    assert scale(generator.normal(0, ERROR, 2000), least=0.02) == pytest.approx(0.02)
    assert scale(centers[:7], least=0.05) == pytest.approx(0.05), "seven do not tell"


def test_only_times_drift() -> None:
    """Losses over seeds, peak memory and what was not tested stay as they are."""
    untested = Change("worse", "speed", "", "outcome", "", "")
    others = [change("test_loss", 0.2), change("peak_mib", 0.2), untested]
    assert widened(others, DRIFT) == others


def test_the_limits_are_where_changes_begin_to_count() -> None:
    def judged(factor: float) -> list[Change]:
        first = change("fill_ms", math.log(factor), shape=0)
        others = [change("fill_ms", (-1) ** shape / 1e6, shape) for shape in range(1, 20)]
        return settled([first, *others], min_difference=0.05)

    (limit,) = limits(judged(1.001))
    assert limit.times == 20
    assert limit.shared is not None
    assert 0.05 < limit.shared < limit.one
    assert judged((1 + limit.one) * 1.01)[0].verdict == "worse"
    assert judged((1 + limit.one) / 1.01)[0].verdict == "same"
    assert f"a time counts here from {limit.one:+.0%} on (median over 20)" in str(limit)
