"""Which way each metric is worse, whether it has noise, and whether it is a property of the machine."""

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rule:
    """What a change of a metric means.

    Attributes:
        names: regular expression of the whole names, as `series.series` makes them.
        better: "lower" or "higher"; None where neither is, so that a change is told and never a regression.
        is_exact: the number has no noise, and any change of it is one.
        is_compared: False for what is measured once and all noise.
        is_of_the_machine: another machine gives another number, so that two machines are not compared by it.
        drifts: runs of the same code differ by more than the repetitions within a run show, as times do.
        reference: what was measured in turns with it, within the same trial; the ratio to it is compared, for what
            slows the whole machine slows both. Groups of `names` may stand in it, as "\\\\1".
    """

    names: str
    better: str | None = None
    is_exact: bool = False
    is_compared: bool = True
    is_of_the_machine: bool = False
    drifts: bool = False
    reference: str | None = None


def _time(names: str, better: str | None = None, *, reference: str | None = None) -> Rule:
    return Rule(names, better, is_of_the_machine=True, drifts=True, reference=reference)


# The first that fits counts.
RULES = (
    # Times of the project's own implementations beside eager PyTorch's; all others are there to compare with.
    _time(r"time\[(\w+), fused_\w+\]", "lower", reference=r"time[\1, eager]"),
    _time(r"fill_ms", "lower", reference="torch_ms"),
    _time(r"(time|wall_time)\[.*\]|(torch|copy)_ms"),
    Rule(r"threads|target", is_of_the_machine=True),
    # Taken once in each training, which may run beside others.
    Rule(r"first_call\[.*\]|train_seconds|seconds_to_target|samples_per_second", is_compared=False),
    Rule(r"(kept|peak)\[(.*, )?fused_\w+\]|step_memory|fill_peak", "lower", is_exact=True),
    Rule(r"registers|(spill|shared)_bytes|accesses|(launches|bytes_per_element)(\[.*\])?", "lower", is_exact=True),
    Rule(r"(tile_)?access_bits", "higher", is_exact=True),
    _time(r"(.*_)?(ns|us|ms|seconds)", "lower"),
    _time(r"(.*_)?(gbps|per_second|speed_?up)", "higher"),
    Rule(r"(.*_)?mib|peak_.*", "lower", is_of_the_machine=True),
    Rule(r"(steps|epochs)_to_.*", "lower"),
    # What was computed from the data alone, not reached by training.
    Rule(r"(constant|least_squares)_loss"),
    Rule(r"(.*_)?loss", "lower"),
    Rule(r"(.*_)?accuracy|largest_rate", "higher"),
)
NO_RULE = Rule(r".*")

# Axes along which a trial repeats one measurement.
REPETITIONS = frozenset({"round", "sample", "repetition"})


def rule_for(metric: str) -> Rule:
    """Return the rule of a metric, with the name of its own reference."""
    for rule in RULES:
        if found := re.fullmatch(rule.names, metric):
            return replace(rule, reference=found.expand(rule.reference)) if rule.reference else rule
    return NO_RULE
