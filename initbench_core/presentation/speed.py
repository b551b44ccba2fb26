"""Speed as a table: from paired samples to medians, bandwidths and speed-ups over a baseline.

Samples are a data frame with a row per sample: "case" (what was run), "pass", "implementation", "round" and "value" in
milliseconds. Samples of one case, pass and round were taken in turns, so they are compared within rounds.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from initbench_core.measurement.bootstrap import stratified_interval
from initbench_core.measurement.roofline import COPY, floor_ms
from initbench_core.measurement.timing import estimate
from initbench_core.presentation.statistics import Interval, is_parity, ratio_text
from initbench_core.records.schema import Measurement, Scalar

# Columns of `speedups` that are no part of a table to read.
SAMPLES = ["samples", "ratios"]


def short(shape: str) -> str:
    """Return a shape as tables and figures name it."""
    return shape.replace(" float32", "").replace("channels_last", "nhwc")


def measurement(pass_name: str, times: Mapping[str, Sequence[float]], metric: str = "time") -> Measurement:
    """Return samples in milliseconds by implementation, equally many of each, as one measurement."""
    (rounds,) = {len(samples) for samples in times.values()}
    axes: dict[str, Sequence[Scalar]] = {
        "pass": [pass_name] * rounds * len(times),
        "implementation": [name for name in times for _ in range(rounds)],
        "round": list(range(rounds)) * len(times),
    }
    return Measurement(metric, "ms", [value for samples in times.values() for value in samples], axes)


def by_implementation(metric: str, unit: str, values: Mapping[str, float]) -> Measurement:
    """Return one number for each implementation as one measurement."""
    return Measurement(metric, unit, list(values.values()), {"implementation": list(values)})


def speedups(samples: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return a row per case, pass and implementation, in the order of the samples.

    Columns: "case", "pass", "implementation", "ms", "ms low", "ms high" (the median time and its 95% interval),
    "speed-up", "low", "high" (over the baseline: the median of the ratios within rounds and its interval; missing
    where there is no baseline), "verdict" ("faster", "slower" or "parity" where the interval includes 1), "rounds",
    "samples" (the times) and "ratios" (those within rounds), each an array a row, to be drawn again: `SAMPLES`.
    """
    rows = []
    for (case, pass_name), group in samples.groupby(["case", "pass"], sort=False):
        rounds = group.pivot(index="round", columns="implementation", values="value")
        for name in group["implementation"].unique():
            time = estimate(rounds[name])
            row = {"case": case, "pass": pass_name, "implementation": name}
            row |= {"ms": time.median, "ms low": time.low, "ms high": time.high, "rounds": time.samples}
            row["samples"] = rounds[name].to_numpy()
            if name not in (baseline, COPY) and baseline in rounds:
                row["ratios"] = (rounds[baseline] / rounds[name]).to_numpy()
                found = median(row["ratios"])
                row |= {"speed-up": found.center, "low": found.low, "high": found.high, "verdict": verdict(found)}
            rows.append(row)
    columns = ["case", "pass", "implementation", "ms", "ms low", "ms high", "speed-up", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=[*columns, "rounds", *SAMPLES])


def median(samples: np.ndarray) -> Interval:
    """Return the median of samples [n] with its 95% bootstrap interval."""
    found = estimate(samples)
    return Interval(found.median, found.low, found.high)


def over_floor(rows: pd.DataFrame) -> pd.Series:
    """Return, for each row of `speedups`, its times over the memory floor within rounds, an array."""
    copies = rows[rows["implementation"] == COPY].set_index(["case", "pass"])["samples"]
    ratios = [
        row["samples"] / floor_ms(row["pass"], 1.0) / copies[row["case"], row["pass"]] for _, row in rows.iterrows()
    ]
    return pd.Series(ratios, index=rows.index, dtype=object)


def verdict(speedup: Interval) -> str:
    """Return "faster", "slower", or "parity" where the interval includes 1."""
    if is_parity(speedup):
        return "parity"
    return "faster" if speedup.center > 1 else "slower"


def geometric_mean(ratios: pd.Series, weights: pd.Series | None = None) -> float:
    """Return the (weighted) geometric mean of positive ratios."""
    return float(np.exp(np.average(np.log(ratios), weights=weights)))


def mean_speedup(rows: pd.DataFrame, weights: pd.Series | None = None) -> Interval:
    """Return the (weighted) geometric mean of speed-ups over cases, with a 95% bootstrap interval.

    Rounds are drawn again within each case: the interval tells how far noise moves the mean of these very cases, not
    what other cases would give.

    Args:
        rows: at least one row of `speedups`, each with a speed-up.
        weights: one a row.
    """
    low, high = stratified_interval(
        list(rows["ratios"]),
        lambda drawn: np.median(drawn, axis=1),
        lambda medians: np.exp(np.average(np.log(medians), axis=0, weights=weights)),
    )
    return Interval(geometric_mean(rows["speed-up"], weights), low, high)


def ratio(row: pd.Series) -> str:
    """Return the speed-up of a row of `speedups` as text: "1.90 (95% 1.70 to 2.10)", or "parity (...)"."""
    return ratio_text(Interval(row["speed-up"], row["low"], row["high"]))


def tally(rows: pd.DataFrame) -> str:
    """Return how many of these rows are faster, at parity and slower: "7 faster, 2 at parity, 1 slower"."""
    counts = rows["verdict"].value_counts()
    words = {"faster": "faster", "parity": "at parity", "slower": "slower"}
    return ", ".join(f"{counts[verdict]} {word}" for verdict, word in words.items() if verdict in counts)


def medians(rows: pd.DataFrame, column: str, titles: Mapping[str, str]) -> str:
    """Return the median of a column over cases by implementation: "eager 1.9; torch.compile 3.1 (at 3 of 13)".

    A median over some of the cases says so: it does not compare with the others'.
    """
    measured = rows.dropna(subset=column)
    centers, counts = measured.groupby("implementation")[column].median(), measured.groupby("implementation")["case"]
    of, found = rows["case"].nunique(), counts.nunique()
    return "; ".join(
        f"{title} {centers[name]:.2g}" + f" (at {found.get(name)} of {of})" * bool(found.get(name, of) < of)
        for name, title in titles.items()
        if name in centers
    )


def latencies(rows: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Return the milliseconds of forward and backward at the smallest and the largest tensor, of those who ran both."""
    times = rows.sort_values("MB", kind="stable").pivot_table(
        index="case", columns="implementation", values="ms", sort=False
    )
    ends = list(dict.fromkeys([str(times.index[0]), str(times.index[-1])]))
    at_ends = times.loc[ends].dropna(axis="columns")
    said = "; ".join(
        f"{title} {' and '.join(f'{ms:.2g}' for ms in at_ends[name])}"
        for name, title in titles.items()
        if name in at_ends
    )
    return f"Milliseconds of forward and backward at {' and '.join(ends)}, the smallest and the largest tensor: {said}."


def summary(
    rows: pd.DataFrame, titles: Mapping[str, str], passes: Mapping[str, str], left_out: Mapping[str, str]
) -> pd.DataFrame:
    """Return the speed-ups of `speedups` in a row per implementation and a column per pass.

    A cell is "1.10 [1.04, 1.17], 8/5/0": the geometric mean ("parity" where its interval includes 1), and at how many
    cases the interval says faster / parity / slower.

    Args:
        rows: as `speedups` returns them.
        titles: by implementation, in the order of the rows; the baseline has speed-up 1 by definition and no row.
        passes: column names by pass.
        left_out: why an implementation was not measured.
    """
    table = []
    for name, title in titles.items():
        own = rows[(rows["implementation"] == name) & rows["speed-up"].notna()]
        if own.empty and name not in left_out:
            continue
        line = {"implementation": title}
        for pass_name, column in passes.items():
            part = own[own["pass"] == pass_name]
            if len(part):
                line[column] = _cell(part)
        if own.empty:
            line["shapes"] = f"not measured: {left_out[name]}"
        else:
            line["shapes"] = str(own["case"].nunique())
        table.append(line)
    columns = [column for column in passes.values() if any(column in line for line in table)]
    return pd.DataFrame(table, columns=["implementation", *columns, "shapes"])


def _cell(part: pd.DataFrame) -> str:
    mean, counts = mean_speedup(part), part["verdict"].value_counts()
    center = "parity" if is_parity(mean) else f"{mean.center:.2f}"
    return f"{center} [{mean.low:.2f}, {mean.high:.2f}], " + "/".join(
        str(counts.get(verdict, 0)) for verdict in ("faster", "parity", "slower")
    )
