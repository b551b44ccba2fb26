"""What every network of a study is looked at for, as columns of its table: units, gradients, steps, time, memory."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from initbench_core.presentation.censored import restricted_mean
from initbench_core.presentation.statistics import interval
from initbench_core.records.frame import per_trial, tidy
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
    "block_factor": ("forward factor per block", True),
    "block_factor_ratio": ("blocks / theory", True),
    "first_last_gradient_ratio": ("first / last gradient", True),
    "update_ratio": ("update / weight", True),
    "samples_per_second": ("samples/s", True),
    "step_memory": ("MiB a step", False),
}


def signs(records: Sequence[Record], *keys: str) -> Mapping[tuple[Any, ...], dict[str, Any]]:
    """Return the means of what was recorded of `SIGNS`, over layers or steps and seeds, by the values of `keys`.

    Units and gradients are those of the start. A configuration has no columns of metrics that it has no values of.
    Seconds to a target are a restricted mean: who did not get there counts as the longest training of its kind.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)
    _add_seconds(found, per_trial(records), list(keys))
    seen = [replace(r, measurements=[m for m in r.measurements if m.metric in SIGNS]) for r in records]
    if not any(record.measurements for record in seen):
        return found
    numbers = tidy(seen)
    for metric, (column, log) in SIGNS.items():
        for key, values in numbers[numbers["metric"] == metric].groupby(list(keys))["value"]:
            found[key][column] = interval(values, log=log).center
    return found


def _add_seconds(found: dict[tuple[Any, ...], dict[str, Any]], trials: pd.DataFrame, keys: list[str]) -> None:
    if {"seconds_to_target", "train_seconds"} <= set(trials.columns):
        for key, cell in trials.dropna(subset="seconds_to_target").groupby(keys):
            budget = float(cell["train_seconds"].max())
            found[key]["seconds to target"] = f"{restricted_mean(cell['seconds_to_target'], budget):.2g}"
