"""What changed between two runs of an experiment, beyond noise.

Trials pair by their configuration, seed included. The unit of judgement is one metric of one configuration:

- exact metrics, outcomes and failed trials change or do not;
- a metric over seeds is judged by Student's test of the paired differences;
- a metric of one seed that its trial repeats (times) by Yuen's test of the 20% trimmed means, for times have outliers;
- of times and rates, their drift between runs of the same code counts as noise too (`between_runs`);
- a single number says nothing of its noise: its change is told, and is no regression.

Numbers are compared on the log scale where all are positive. A change counts if it is at least the minimal relevant
difference and significant: by Holm's procedure over all metrics that one call compares and that have a better
direction, so that of runs in which nothing changed at most one in twenty alarms; likewise over the others.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from initbench_core.comparison.between_runs import DRIFT, widened
from initbench_core.comparison.judgement import Change, holm, judge
from initbench_core.comparison.rules import rule_for
from initbench_core.comparison.series import Series, series
from initbench_core.comparison.sources import Run
from initbench_core.records.schema import OUTCOMES, Record

FALSE_ALARM_RATE = 0.05

Pair = tuple[Record, Record]


def compare(
    runs: Sequence[tuple[Run, Run]], *, min_difference: float, drift: float = DRIFT, across_machines: bool = False
) -> list[Change]:
    """Judge every metric of every configuration that both runs of a pair have.

    Args:
        runs: pairs as `sources.pairs` returns them.
        min_difference: smallest relative change of a noisy metric that is relevant, as 0.05.
        drift: least scale of what times drift between runs of the same code; see `between_runs`.
        across_machines: leave out what depends on the machine.
    """
    found = [
        change
        for a, b in runs
        for cell, pairs in _cells(a.records, b.records).items()
        for change in _changes(a.experiment, cell, pairs, across_machines=across_machines)
    ]
    return settled(found, min_difference=min_difference, drift=drift)


def settled(changes: Sequence[Change], *, min_difference: float, drift: float = DRIFT) -> list[Change]:
    """Decide which changes stand: those relevant and significant, and of the untested ones those relevant.

    Args:
        changes: as `judgement.judge` returns them, all that one call compares.
        min_difference: as `compare`.
        drift: as `compare`.
    """
    result = []
    changes = widened(changes, drift)
    for has_direction in (True, False):
        family = [change for change in changes if (change.verdict != "changed") == has_direction]
        significant = holm([change.p for change in family], FALSE_ALARM_RATE)
        result += [_settled(change, min_difference, ok) for change, ok in zip(family, significant, strict=True)]
    return result


def _settled(change: Change, min_difference: float, is_significant: bool) -> Change:
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
    measured = [(series(a), series(b)) for a, b in pairs]
    for name in dict.fromkeys(name for pair in measured for side in pair for name in side):
        rule = rule_for(name)
        if not rule.is_compared or (across_machines and rule.is_of_the_machine):
            continue
        known = [(a[name], b[name]) for a, b in measured if name in a and name in b]
        counts = [sum(name in side for side in sides) for sides in zip(*measured, strict=True)]
        if counts != [len(known)] * 2:
            texts = [f"in {count} of {len(pairs)} trials" for count in counts]
            yield replace(blank, verdict="changed", metric=name, a=texts[0], b=texts[1], n=len(pairs))
        elif rule.reference and (against := _against(measured, name, rule.reference)):
            yield judge(replace(blank, metric=f"{name} / {rule.reference}"), rule, against)
        else:
            yield judge(replace(blank, metric=name), rule, known)


def _against(
    measured: Sequence[tuple[Mapping[str, Series], Mapping[str, Series]]], name: str, reference: str
) -> list[tuple[Series, Series]]:
    """Return ratios to the reference, round by round; empty where a trial has none."""
    result = []
    for a, b in measured:
        if name in a and name in b:
            ratios = a[name].over(a.get(reference)), b[name].over(b.get(reference))
            if ratios[0] is None or ratios[1] is None:
                return []
            result.append((ratios[0], ratios[1]))
    return result


def _outcomes(blank: Change, pairs: Sequence[Pair]) -> Change:
    names = [tuple(record.outcome.name if record.outcome else "none" for record in pair) for pair in pairs]
    ranks = [[_rank(name) for name in pair] for pair in names]
    better = sum(b < a for a, b in ranks)
    worse = sum(b > a for a, b in ranks)
    texts = [
        ", ".join(f"{count} {name}" for name, count in sorted(Counter(side).items(), key=lambda item: _rank(item[0])))
        for side in zip(*names, strict=True)
    ]
    verdict = "worse" if worse else "better" if better else "same"
    return replace(blank, verdict=verdict, metric="outcome", a=texts[0], b=texts[1], n=len(pairs))


def _rank(outcome: str) -> int:
    names = list(OUTCOMES)
    return names.index(outcome) if outcome in names else len(names)
