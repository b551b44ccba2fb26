"""The measurements of a record as series that two runs can be compared by."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from initbench_core.comparison.rules import REPETITIONS
from initbench_core.records.schema import Measurement, Record


@dataclass(frozen=True, eq=False)
class Series:
    """Numbers under one name.

    Attributes:
        values: the numbers.
        is_repeated: whether they repeat one measurement, and so tell its noise.
    """

    values: np.ndarray
    is_repeated: bool

    @property
    def number(self) -> float:
        """One number for all: the median of repetitions, else the mean, geometric where all are positive.

        Of a series that leaves the finite numbers it is the last value: how it ends is what there is to compare.
        """
        if len(self.values) == 1 or not np.isfinite(self.values).all():
            return float(self.values[-1])
        if self.is_repeated:
            return float(np.median(self.values))
        return float(stats.gmean(self.values) if (self.values > 0).all() else self.values.mean())

    def over(self, other: "Series | None") -> "Series | None":
        """Divide each repetition by the other's of the same round; None where they do not pair."""
        if other is None or len(other.values) != len(self.values):
            return None
        return Series(self.values / other.values, self.is_repeated)


def series(record: Record) -> Mapping[str, Series]:
    """Return the measurements of a record by name.

    Names along an axis, as of implementations, make a series each: "time[fwd_bwd, eager]".
    """
    values: dict[str, list[float]] = defaultdict(list)
    repeated: dict[str, bool] = {}
    for measurement in record.measurements:
        repeats = bool(REPETITIONS & set(measurement.axes))
        for name, value in _named(measurement):
            values[name].append(value)
            repeated[name] = repeats
    return {name: Series(np.array(found, dtype=float), repeated[name]) for name, found in values.items()}


def _named(measurement: Measurement) -> Iterator[tuple[str, float]]:
    labels: Sequence[Sequence[object]] = [
        coordinates for coordinates in measurement.axes.values() if any(isinstance(c, str) for c in coordinates)
    ]
    for i, value in enumerate(measurement.values):
        at = ", ".join(str(coordinates[i]) for coordinates in labels)
        yield (f"{measurement.metric}[{at}]" if labels else measurement.metric), value
