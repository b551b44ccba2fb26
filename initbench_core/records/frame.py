"""Records as tables: a row a number, or a row a trial."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from initbench_core.records.schema import Record


def _trial(record: Record) -> dict[str, Any]:
    return {
        "trial": record.key,
        **record.config,
        "outcome": record.outcome.name if record.outcome else None,
        "first_bad_step": record.outcome.first_bad_step if record.outcome else None,
    }


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row per number: trial, config fields, outcome, metric, unit, value and the axes of the metric."""
    parts = []
    for record in records:
        for m in record.measurements:
            part = pd.DataFrame({"metric": m.metric, "unit": m.unit, "value": list(m.values), **m.axes})
            parts.append(part.assign(**_trial(record)))
    return pd.concat(parts, ignore_index=True)


def per_trial(records: Iterable[Record]) -> pd.DataFrame:
    """Return a row per trial: config fields, outcome, and each metric that is a single number as a column."""
    rows = []
    for record in records:
        singles = {m.metric: m.values[0] for m in record.measurements if len(m.values) == 1 and not m.axes}
        rows.append({**_trial(record), **singles})
    return pd.DataFrame(rows)
