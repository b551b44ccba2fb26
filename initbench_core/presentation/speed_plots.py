"""The figures of the speed experiments: one colour and marker per implementation, in all of them the same."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE

from initbench_core.measurement.roofline import COPY
from initbench_core.presentation import plots, speed
from initbench_core.presentation.statistics import Interval

MARKERS = "osD^vPX*h"
PASS_TITLES = {
    "fwd_train": "forward, training",
    "bwd": "backward",
    "fwd_bwd": "forward and backward",
    "eval": "evaluation",
    "step": "training step",
}

# The last row of the speed-ups, and how far their axis reaches for the sake of a few.
MEAN = "geometric mean"
FEW, FURTHEST = 0.1, (0.4, 2.5)
# Between the points of two implementations at one size, so that equal ones stand side by side.
STEP_ASIDE = 1.1
# Off the median by so much of the input's size, a case's memory stands out; of so many the names stand beside it.
OUTSTANDING, MOST_NAMES = 0.1, 2

# Legend texts by implementation; its order gives each its colour and marker.
Titles = Mapping[str, str]


def _look(name: str, titles: Titles) -> dict[str, Any]:
    place = list(titles).index(name)
    return {
        "color": plots.CYCLE[place % len(plots.CYCLE)],
        "marker": MARKERS[place % len(MARKERS)],
        "label": titles[name],
    }


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    entries = {text: handle for panel in axes for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=min(5, len(entries)))


def _passes(rows: pd.DataFrame) -> list[str]:
    return [name for name in PASS_TITLES if name in set(rows["pass"])]


def speedups(rows: pd.DataFrame, titles: Titles, *, title: str, shown: Collection[str] = ()) -> Figure:
    """Draw the speed-up over the baseline by case, a panel per pass, with the line of parity and the means below.

    Args:
        rows: of `speed.speedups`.
        titles: legend texts.
        title: of the figure.
        shown: the cases that get a row, all if empty; the means are over all.
    """
    rows = rows.dropna(subset="speed-up")
    passes, cases = _passes(rows), [case for case in dict.fromkeys(rows["case"]) if not shown or case in shown]
    names = [name for name in titles if name in set(rows["implementation"])]
    places = {case: place for place, case in enumerate([*cases, MEAN])}
    figure, grid = plots.panels(
        1, max(1, len(passes)), title=title, width=max(8.0, 2.0 + 2.5 * len(passes)),
        height=1.4 + (0.16 + 0.13 * len(names)) * len(places), sharey=True, sharex=True, squeeze=False,
    )  # fmt: skip
    limits = _limits(rows["speed-up"])
    grid[0][0].set(xscale="log", xlim=limits, ylim=(len(places) - 0.5, -0.5))
    for panel, pass_name in zip(grid[0], passes, strict=False):
        for i, name in enumerate(names):
            part = rows[(rows["pass"] == pass_name) & (rows["implementation"] == name)]
            found = {row["case"]: Interval(row["speed-up"], row["low"], row["high"]) for _, row in part.iterrows()}
            # A mean over some of the cases would not compare with the others'.
            if set(found) == set(rows["case"]):
                found[MEAN] = speed.mean_speedup(part)
            offset = (i - (len(names) - 1) / 2) * 0.8 / len(names)
            at = {places[case] + offset: ratio for case, ratio in found.items() if case in places}
            _intervals(panel, at, limits, _look(name, titles))
        for between in range(1, len(places)):
            last = between == len(cases)
            panel.axhline(between - 0.5, color=plots.INK if last else "#e6e6e6", lw=0.8)
        panel.axvline(1, color=plots.INK, ls=(0, (4, 2)), lw=1.0)
        panel.grid(False, axis="y")
        plots.label(panel, x="times as fast as eager\n(right of 1: faster)", y="", title=PASS_TITLES[pass_name])
    plots.log_ticks(grid[0][0].xaxis)
    grid[0][0].set_yticks(range(len(places)), list(places))
    _legend(figure, grid[0])
    return figure


def _limits(ratios: pd.Series) -> tuple[float, float]:
    """Return the ends of the axis; the few that are far off stand there, so that the others can be told apart."""
    low, high = min(0.8, ratios.min() / 1.15), max(1.25, ratios.max() * 1.15)
    most_low, most_high = ratios.quantile([FEW, 1 - FEW])
    return max(low, min(FURTHEST[0], most_low / 1.15)), min(high, max(FURTHEST[1], most_high * 1.15))


def _intervals(panel: Axes, at: Mapping[float, Interval], limits: tuple[float, float], look: dict[str, Any]) -> None:
    """Draw medians with their intervals; one beyond the limits is an arrow at the edge, with its value."""
    low, high = limits
    inside = {place: ratio for place, ratio in at.items() if low <= ratio.center <= high}
    centers = [ratio.center for ratio in inside.values()]
    arms = [[r.center - r.low for r in inside.values()], [r.high - r.center for r in inside.values()]]
    panel.errorbar(centers, list(inside), xerr=arms, ls="", ms=4.5, lw=1.2, **look)
    for place in at.keys() - inside.keys():
        left = at[place].center < low
        panel.plot(
            low if left else high, place, ls="", marker=CARETLEFTBASE if left else CARETRIGHTBASE, ms=6,
            color=look["color"], clip_on=False,
        )  # fmt: skip
        panel.annotate(
            f"{at[place].center:.2g}", (low if left else high, place), xytext=(9 if left else -9, 0),
            textcoords="offset points", ha="left" if left else "right", va="center", fontsize=8, color=look["color"],
        )  # fmt: skip


def against_size(
    rows: pd.DataFrame, titles: Titles, value: str, *, title: str, copy: str, better: str, named: Collection[str] = ()
) -> Figure:
    """Draw a quantity against the tensor's size, a panel per pass, with the copy of the same bytes as dashed curve.

    Args:
        rows: with "case", "MB", "pass", "implementation" (the copy among them) and the column `value`.
        titles: legend texts.
        value: the column to draw, named by its unit.
        title: of the figure.
        copy: the copy's legend text.
        better: where it is faster: "higher" or "lower".
        named: cases whose names stand beside the points of the first implementation.
    """
    passes = _passes(rows)
    # Names stand on the slow side of their points, where there are few others.
    slow: dict[str, Any] = {"xytext": (0, 6), "va": "bottom"} if better == "lower" else {"xytext": (0, -6), "va": "top"}
    figure, grid = plots.panels(
        1, max(1, len(passes)), title=title, width=max(8.0, 1.5 + 2.6 * len(passes)), height=3.4, sharey=True,
        sharex=True, squeeze=False,
    )  # fmt: skip
    for panel, pass_name in zip(grid[0], passes, strict=False):
        part = rows[rows["pass"] == pass_name].sort_values("MB")
        names = [name for name in titles if name in set(rows["implementation"])]
        for i, name in enumerate(names):
            own = part[part["implementation"] == name]
            if len(own):
                at = own["MB"] * STEP_ASIDE ** (i - (len(names) - 1) / 2)
                panel.plot(at, own[value], ls="", ms=5, mfc="none", mew=1.2, **_look(name, titles))
        for _, row in part[part["case"].isin(named) & (part["implementation"] == next(iter(titles)))].iterrows():
            panel.annotate(
                row["case"], (row["MB"], row[value]), textcoords="offset points", ha="center", fontsize=7,
                color=plots.INK, **slow,
            )  # fmt: skip
        bound = part[part["implementation"] == COPY].groupby("MB")[value].median()
        plots.theory(panel, bound.index.to_numpy(), bound.to_numpy(), copy)
        panel.set(xscale="log", yscale="log", ymargin=0.12)
        plots.label(panel, x="tensor, MB (side by side: of one size)", y="", title=PASS_TITLES[pass_name])
    grid[0][0].set_ylabel(f"{value} ({better} is faster)")
    # Shared by all panels.
    for axis in (grid[0][0].xaxis, grid[0][0].yaxis):
        plots.log_ticks(axis)
    _legend(figure, grid[0])
    return figure


def memory(rows: pd.DataFrame, titles: Titles, *, title: str) -> Figure:
    """Draw memory by implementation, a panel per quantity, a dot per case.

    Args:
        rows: with "case", "implementation" and columns of memory in tensors of the input's size.
        titles: legend texts.
        title: of the figure.
    """
    quantities = [column for column in rows.columns if column not in ("case", "implementation")]
    names = [name for name in titles if name in set(rows["implementation"])]
    figure, grid = plots.panels(
        1, len(quantities), title=title, height=0.9 + 0.44 * len(names), sharey=True, squeeze=False
    )
    for panel, quantity in zip(grid[0], quantities, strict=True):
        for place, name in enumerate(names):
            own = rows[rows["implementation"] == name].set_index("case")[quantity].dropna()
            _name_outstanding(panel, own, place)
            panel.plot(own, [place] * len(own), ls="", ms=7, alpha=0.5, **_look(name, titles))
            if own.empty:
                panel.annotate(
                    "not measured", (0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
                )
        panel.set_xlim(0, max(2.2, rows[quantity].max() * 1.1 if rows[quantity].notna().any() else 0))
        panel.set_yticks(range(len(names)), [titles[name] for name in names])
        panel.set_ylim(len(names) - 0.5, -0.5)
        plots.label(panel, x="tensors of the input's size", y="", title=quantity)
    return figure


def _name_outstanding(panel: Axes, own: pd.Series, place: int) -> None:
    """Write the cases whose memory is not that of most above their points, those of equal memory together."""
    off = own[(own - own.median()).abs() > OUTSTANDING]
    for amount, equal in off.groupby(off.round(1)):
        more = f" and {len(equal) - MOST_NAMES} more" if len(equal) > MOST_NAMES else ""
        text = ", ".join(equal.index[:MOST_NAMES]) + more
        panel.annotate(text, (amount, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
