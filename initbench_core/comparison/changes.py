"""What changed between two runs of an experiment, beyond noise.

Trials pair by their configuration, seed included. The unit of judgement is one metric of one configuration:

- exact metrics, outcomes and failed trials change or do not;
- a metric over seeds is judged by Student's test of the paired differences;
- a metric of one seed that its trial repeats (times) by Yuen's test of the 20% trimmed means, for times have outliers;
- a single number says nothing of its noise: its change is told, and is no regression.

Numbers are compared on the log scale where all are positive. A change counts if it is at least the minimal relevant
difference and significant: by Holm's procedure over everything that one call compares, so that among runs in which
nothing changed at most one in twenty reports anything.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from initbench_core.comparison.rules import REPETITIONS, Rule, rule_for
from initbench_core.comparison.sources import Run
from initbench_core.records.schema import Measurement, Record

FALSE_ALARM_RATE = 0.05
TRIM = 0.2
# From best to worst; `training.outcome` defines them.
OUTCOMES = ("trained", "slow", "stalled", "diverged")

Pair = tuple[Record, Record]


@dataclass(frozen=True)
class Change:
    """What became of one metric of one configuration.

    Attributes:
        verdict: "worse", "better", "changed" (no direction is better, or the noise is unknown) or "same".
        experiment: its name.
        configuration: the fields that tell it from the others of its run, as "norm=before, depth=10".
        metric: its name, or "outcome".
        a: what the first run measured, as text.
        b: what the second run measured.
        relative: B / A - 1, or the difference over the larger of both where not all numbers are positive; nan where
            there is none.
        low: lower end of its 95% interval.
        high: upper end.
        n: seeds or repetitions that were compared.
        p: of the test, before Holm's correction; nan where nothing was tested.
    """

    verdict: str
    experiment: str
    configuration: str
    metric: str
    a: str
    b: str
    relative: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 1
    p: float = math.nan


def compare(runs: Sequence[tuple[Run, Run]], *, min_difference: float, across_machines: bool = False) -> list[Change]:
    """Judge every metric of every configuration that both runs of a pair have.

    Args:
        runs: pairs as `sources.pairs` returns them.
        min_difference: smallest relative change of a noisy metric that is relevant, as 0.05.
        across_machines: leave out what depends on the machine.
    """
    found = [
        change
        for a, b in runs
        for cell, pairs in _cells(a.records, b.records).items()
        for change in _changes(a.experiment, cell, pairs, across_machines=across_machines)
    ]
    significant = holm([change.p for change in found], FALSE_ALARM_RATE)
    return [_settled(change, min_difference, ok) for change, ok in zip(found, significant, strict=True)]


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Tell which hypotheses fall, at a family-wise error rate of `level`; nan is no hypothesis (Holm 1979)."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    rejected = [False] * len(p_values)
    for rank, (p, i) in enumerate(tested):
        if p > level / (len(tested) - rank):
            break
        rejected[i] = True
    return rejected


def _settled(change: Change, min_difference: float, is_significant: bool) -> Change:
    """A tested change stands if it is relevant and significant; an untested one stands as it is, if it is relevant."""
    if math.isnan(change.relative):
        return change
    is_relevant = abs(change.relative) >= min_difference
    stands = is_relevant and (math.isnan(change.p) or is_significant)
    return change if stands else replace(change, verdict="same")


def _cells(a: Sequence[Record], b: Sequence[Record]) -> Mapping[str, list[Pair]]:
    """Pair the trials by key and gather those that differ in their seed alone, under the fields that vary."""
    second = {record.key: record for record in b}
    paired = [(record, second[record.key]) for record in a if record.key in second]
    values = defaultdict(set)
    for record, _ in paired:
        for name, value in record.config.items():
            values[name].add(json.dumps(value))
    varying = [name for name, found in values.items() if len(found) > 1 and name != "seed"]
    cells = defaultdict(list)
    for pair in paired:
        config = pair[0].config
        cells[", ".join(f"{name}={config[name]}" for name in varying if name in config)].append(pair)
    return cells


def _changes(experiment: str, cell: str, pairs: Sequence[Pair], *, across_machines: bool) -> Iterator[Change]:
    blank = Change("same", experiment, cell, "", "", "")
    broken = [sum(record.failure is not None for record in side) for side in zip(*pairs, strict=True)]
    if any(broken):
        verdict = "same" if broken[0] == broken[1] else "worse" if broken[1] > broken[0] else "better"
        texts = [f"{count} of {len(pairs)} failed" for count in broken]
        yield replace(blank, verdict=verdict, metric="trials", a=texts[0], b=texts[1], n=len(pairs))
        pairs = [pair for pair in pairs if not any(record.failure for record in pair)]
    if any(record.outcome for pair in pairs for record in pair):
        yield _outcomes(blank, pairs)
    names = dict.fromkeys(m.metric for pair in pairs for record in pair for m in record.measurements)
    for name in names:
        rule = rule_for(name)
        if across_machines and rule.is_of_the_machine:
            continue
        both = [(_measured(a, name), _measured(b, name)) for a, b in pairs]
        known = [(a, b) for a, b in both if a is not None and b is not None]
        counts = [sum(side is not None for side in sides) for sides in zip(*both, strict=True)]
        if counts != [len(known)] * 2:
            texts = [f"in {count} of {len(both)} trials" for count in counts]
            yield replace(blank, verdict="changed", metric=name, a=texts[0], b=texts[1], n=len(both))
        elif rule.reference and (against := _against(pairs, known, rule.reference)):
            yield _judged(replace(blank, metric=f"{name} / {rule.reference}"), rule, against)
        else:
            yield _judged(replace(blank, metric=name), rule, known)


def _measured(record: Record, metric: str) -> Measurement | None:
    return next((m for m in record.measurements if m.metric == metric), None)


def _against(
    pairs: Sequence[Pair], known: Sequence[tuple[Measurement, Measurement]], reference: str
) -> list[tuple[Measurement, Measurement]]:
    """Divide each repetition by the reference's in the same round; empty where a trial has no such reference."""
    result = []
    for pair, measured in zip(pairs, known, strict=True):
        ratios = []
        for record, own in zip(pair, measured, strict=True):
            other = _measured(record, reference)
            if other is None or len(other.values) != len(own.values):
                return []
            ratios.append(replace(own, values=[x / y for x, y in zip(own.values, other.values, strict=True)]))
        result.append((ratios[0], ratios[1]))
    return result


def _outcomes(blank: Change, pairs: Sequence[Pair]) -> Change:
    names = [tuple(record.outcome.name if record.outcome else "none" for record in pair) for pair in pairs]
    ranks = [[OUTCOMES.index(x) if x in OUTCOMES else len(OUTCOMES) for x in pair] for pair in names]
    better = sum(b < a for a, b in ranks)
    worse = sum(b > a for a, b in ranks)
    texts = [
        ", ".join(f"{count} {name}" for name, count in sorted(Counter(side).items(), key=_rank))
        for side in zip(*names, strict=True)
    ]
    verdict = "worse" if worse else "better" if better else "same"
    return replace(blank, verdict=verdict, metric="outcome", a=texts[0], b=texts[1], n=len(pairs))


def _rank(entry: tuple[str, int]) -> int:
    return OUTCOMES.index(entry[0]) if entry[0] in OUTCOMES else len(OUTCOMES)


def _direction(rule: Rule, rise: float) -> str:
    """Name a change by its sign."""
    if rule.better is None or rise == 0:
        return "changed"
    return "better" if (rise < 0) == (rule.better == "lower") else "worse"


def _judged(blank: Change, rule: Rule, pairs: Sequence[tuple[Measurement, Measurement]]) -> Change:
    """Compare one metric over the seeds of a configuration; `pairs` has an entry for each seed."""
    numbers = np.array([[_number(m) for m in pair] for pair in pairs])
    a, b = _centers(numbers)
    shown = replace(blank, n=len(pairs), a=a, b=b)
    if all(np.array_equal(a.values, b.values, equal_nan=True) for a, b in pairs):
        return shown
    finite = np.isfinite(numbers)
    if (finite[:, 0] != finite[:, 1]).any():
        lost = int(finite[:, 0].sum() - finite[:, 1].sum())
        counts = [f"{count} of {len(pairs)} finite" for count in finite.sum(axis=0)]
        # As many lost as gained: the trials changed, the metric did not.
        verdict = "changed" if rule.better is None or lost == 0 else "worse" if lost > 0 else "better"
        return replace(shown, verdict=verdict, a=counts[0], b=counts[1])
    numbers = numbers[finite.all(axis=1)]
    if not len(numbers):
        return shown
    if rule.is_exact:
        rise = numbers[:, 1] - numbers[:, 0]
        # One trial that got worse is not made up for by another.
        worst = rise[np.argmax(rise if rule.better == "lower" else -rise)]
        return replace(shown, verdict=_direction(rule, worst or rise.sum())) if rise.any() else shown
    repeated = [m for m in pairs[0] if set(m.axes) & REPETITIONS and len(m.values) > 1]
    if len(numbers) == 1 and len(repeated) == 2:
        return _of_samples(shown, rule, *(np.asarray(m.values, dtype=float) for m in pairs[0]))
    return _of_seeds(shown, rule, numbers)


def _number(measurement: Measurement) -> float:
    """One number of a series: the median of repetitions, else the mean, geometric where all are positive."""
    values = np.asarray(measurement.values, dtype=float)
    if len(values) == 1 or not np.isfinite(values).all():
        # How a series that leaves the finite numbers ends is what there is to compare.
        return float(values[-1])
    if set(measurement.axes) & REPETITIONS:
        return float(np.median(values))
    return float(stats.gmean(values) if (values > 0).all() else values.mean())


def _centers(numbers: np.ndarray) -> tuple[str, str]:
    finite = numbers[np.isfinite(numbers).all(axis=1)]
    if not len(finite):
        return "not finite", "not finite"
    a, b = stats.gmean(finite, axis=0) if (finite > 0).all() else finite.mean(axis=0)
    return f"{a:.4g}", f"{b:.4g}"


def _of_seeds(shown: Change, rule: Rule, numbers: np.ndarray) -> Change:
    """Judge pairs of numbers [seeds, 2]."""
    is_log = bool((numbers > 0).all())
    rises = np.diff(np.log(numbers) if is_log else numbers, axis=1)[:, 0]
    center, n = float(rises.mean()), len(rises)
    half = p = math.nan
    if n > 1:
        spread = float(rises.std(ddof=1)) / math.sqrt(n)
        half = float(stats.t.ppf(0.975, n - 1)) * spread
        # The same change for every seed leaves no doubt.
        p = 2 * float(stats.t.sf(abs(center) / spread, n - 1)) if spread else float(center == 0)
    verdict = _direction(rule, center) if n > 1 else "changed"
    relative, low, high = _ends(center, half, is_log, float(np.abs(numbers).max()))
    return replace(shown, verdict=verdict, n=n, p=p, relative=relative, low=low, high=high)


def _of_samples(shown: Change, rule: Rule, a: np.ndarray, b: np.ndarray) -> Change:
    """Judge two sets of repetitions."""
    is_log = bool((a > 0).all() and (b > 0).all())
    scale = float(max(np.abs(a).max(), np.abs(b).max()))
    if is_log:
        a, b = np.log(a), np.log(b)
    center = float(stats.trim_mean(b, TRIM) - stats.trim_mean(a, TRIM))
    test = stats.ttest_ind(b, a, equal_var=False, trim=TRIM)
    half = float(stats.t.ppf(0.975, test.df) * abs(center / test.statistic)) if test.statistic else math.nan
    p = float(test.pvalue) if math.isfinite(test.pvalue) else float(center == 0)
    relative, low, high = _ends(center, half, is_log, scale)
    verdict = _direction(rule, center)
    return replace(shown, verdict=verdict, n=min(len(a), len(b)), p=p, relative=relative, low=low, high=high)


def _ends(center: float, half: float, is_log: bool, scale: float) -> list[float]:
    """Turn a difference and its interval into relative ones."""
    return [math.expm1(end) if is_log else end / scale for end in (center, center - half, center + half)]
