"""What every network of a study is looked at for, as columns of its table: units, gradients, steps and memory."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from initbench_core.presentation.statistics import interval
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Record

# The column of each metric, and whether its mean is geometric.
SIGNS = {
    "dead_fraction": ("dead units (fraction)", False),
    "always_on_fraction": ("always on (fraction)", False),
    "saturated_fraction": ("saturated (fraction)", False),
    "mean_cosine": ("cosine between inputs", False),
    "forward_factor": ("forward factor per layer", True),
    "forward_factor_ratio": ("forward / theory", True),
    "backward_factor": ("backward factor per layer", True),
    "backward_factor_ratio": ("backward / theory", True),
    "first_last_gradient_ratio": ("first / last gradient", True),
    "update_ratio": ("update / weight", True),
    "step_memory": ("MiB a step", False),
}


def signs(records: Sequence[Record], *keys: str) -> Mapping[tuple[Any, ...], dict[str, float]]:
    """Return the means of what was recorded of `SIGNS`, over layers or steps and seeds, by the values of `keys`.

    Units and gradients are those of the start. A configuration has no columns of metrics that it has no values of.
    """
    found: dict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
    seen = [replace(r, measurements=[m for m in r.measurements if m.metric in SIGNS]) for r in records]
    if not any(record.measurements for record in seen):
        return found
    numbers = tidy(seen)
    for metric, (column, log) in SIGNS.items():
        for key, values in numbers[numbers["metric"] == metric].groupby(list(keys))["value"]:
            found[key][column] = interval(values, log=log).center
    return found
