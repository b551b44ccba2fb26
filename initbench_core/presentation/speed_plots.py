"""The figures of the speed experiments: one colour and marker per implementation, in all of them the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from initbench_core.measurement.roofline import COPY
from initbench_core.presentation import plots

MARKERS = "osD^vPX*h"
PASS_TITLES = {
    "fwd_train": "forward, training",
    "bwd": "backward",
    "fwd_bwd": "forward and backward",
    "eval": "evaluation",
    "step": "training step",
}

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


def speedups(rows: pd.DataFrame, titles: Titles, *, title: str) -> Figure:
    """Draw the speed-up over the baseline by case, a panel per pass, with the line of parity.

    Args:
        rows: of `speed.speedups`.
        titles: legend texts.
        title: of the figure.
    """
    rows = rows.dropna(subset="speed-up")
    passes, cases = _passes(rows), list(dict.fromkeys(rows["case"]))
    names = [name for name in titles if name in set(rows["implementation"])]
    figure, grid = plots.panels(
        1, max(1, len(passes)), title=title, width=max(8.0, 2.0 + 2.5 * len(passes)),
        height=1.4 + (0.16 + 0.13 * len(names)) * len(cases), sharey=True, sharex=True, squeeze=False,
    )  # fmt: skip
    for panel, pass_name in zip(grid[0], passes, strict=False):
        for i, name in enumerate(names):
            part = rows[(rows["pass"] == pass_name) & (rows["implementation"] == name)]
            places = [cases.index(case) + (i - (len(names) - 1) / 2) * 0.8 / len(names) for case in part["case"]]
            errors = [part["speed-up"] - part["low"], part["high"] - part["speed-up"]]
            panel.errorbar(part["speed-up"], places, xerr=errors, ls="", ms=4.5, lw=1.2, **_look(name, titles))
        for between in range(1, len(cases)):
            panel.axhline(between - 0.5, color="#e6e6e6", lw=0.8)
        panel.axvline(1, color=plots.INK, ls=(0, (4, 2)), lw=1.0)
        panel.grid(False, axis="y")
        plots.label(panel, x="times as fast as eager", y="", title=PASS_TITLES[pass_name])
    # Intervals may leave the panel, medians do not.
    low, high = min(0.8, rows["speed-up"].min()) / 1.15, max(1.25, rows["speed-up"].max()) * 1.15
    fine, coarse = (0.5, 0.7, 1, 1.4, 2), (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
    ticks = [t for t in (fine if high / low < 5 else coarse) if low <= t <= high]
    grid[0][0].set(xscale="log", xlim=(low, high), ylim=(len(cases) - 0.5, -0.5))
    grid[0][0].set_xticks(ticks, [f"{t:g}" for t in ticks])
    grid[0][0].set_xticks([], minor=True)
    grid[0][0].set_yticks(range(len(cases)), cases)
    _legend(figure, grid[0])
    return figure


def against_size(rows: pd.DataFrame, titles: Titles, value: str, *, title: str, copy: str) -> Figure:
    """Draw a quantity against the tensor's size, a panel per pass, with the copy of the same bytes as dashed curve.

    Args:
        rows: with "MB", "pass", "implementation" and the column `value`; the copy is one of the implementations.
        titles: legend texts.
        value: the column to draw, named by its unit.
        title: of the figure.
        copy: the copy's legend text.
    """
    passes = _passes(rows)
    figure, grid = plots.panels(
        1, max(1, len(passes)), title=title, width=max(8.0, 1.5 + 2.6 * len(passes)), height=3.4, sharey=True,
        sharex=True, squeeze=False,
    )  # fmt: skip
    for panel, pass_name in zip(grid[0], passes, strict=False):
        part = rows[rows["pass"] == pass_name].sort_values("MB")
        for name in titles:
            own = part[part["implementation"] == name]
            if len(own):
                panel.plot(own["MB"], own[value], ls="", ms=4.5, alpha=0.85, **_look(name, titles))
        bound = part[part["implementation"] == COPY].groupby("MB")[value].median()
        plots.theory(panel, bound.index.to_numpy(), bound.to_numpy(), copy)
        panel.set(xscale="log", yscale="log")
        plots.label(panel, x="tensor, MB", y="", title=PASS_TITLES[pass_name])
    grid[0][0].set_ylabel(value)
    # Shared by all panels.
    for axis in (grid[0][0].xaxis, grid[0][0].yaxis):
        plots.log_ticks(axis)
    _legend(figure, grid[0])
    return figure


def memory(rows: pd.DataFrame, titles: Titles, *, title: str) -> Figure:
    """Draw memory by implementation, a panel per quantity, a dot per case.

    Args:
        rows: with "implementation" and columns of memory in tensors of the input's size.
        titles: legend texts.
        title: of the figure.
    """
    quantities = [column for column in rows.columns if column != "implementation"]
    names = [name for name in titles if name in set(rows["implementation"])]
    figure, grid = plots.panels(
        1, len(quantities), title=title, height=0.9 + 0.38 * len(names), sharey=True, squeeze=False
    )
    for panel, quantity in zip(grid[0], quantities, strict=True):
        for place, name in enumerate(names):
            own = rows[rows["implementation"] == name][quantity].dropna()
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
