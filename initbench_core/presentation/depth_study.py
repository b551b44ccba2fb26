"""The figures of a study over initializer, depth and place of BatchNorm: one panel for each place."""

import math
from collections.abc import Collection, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from initbench_core.presentation import plots
from initbench_core.presentation.censored import RestrictedMean
from initbench_core.presentation.curves import by_layer, theory_in_legend
from initbench_core.presentation.maps import outcome_map, value_map
from initbench_core.presentation.statistics import interval

PLACES = {"none": "no BatchNorm", "before": "BatchNorm before the ReLU", "after": "BatchNorm after the ReLU"}

# Columns for which a panel has room at least, so that its title fits.
NARROWEST = 4

# A cell: depth, initializer, place of BatchNorm.
Key = tuple[int, str, str]


def outcome_maps(cells: Mapping[Key, pd.DataFrame], inits: Sequence[str], title: str) -> Figure:
    """Draw how the trials of every cell ended, and how many were trained.

    Args:
        cells: the trials of each, with a column "outcome".
        inits: initializers from top to bottom.
        title: of the figure.
    """
    figure, panels = _map_panels(cells, title, "in the cells: seeds trained; blank: not run")
    for place, (panel, depths) in panels.items():
        outcomes = {(init, depth): list(c["outcome"]) for (depth, init, p), c in cells.items() if p == place}
        text = {key: f"{names.count('trained')}/{len(names)}" for key, names in outcomes.items()}
        outcome_map(panel, outcomes, inits, depths, text)
    axes = [panel for panel, _ in panels.values()]
    plots.outcome_legend(axes[-1], [name for cell in cells.values() for name in cell["outcome"]])
    return figure


def step_maps(
    steps: Mapping[Key, RestrictedMean], inits: Sequence[str], limits: tuple[float, float], title: str
) -> Figure:
    """Draw the steps to the target of every cell; ">" marks a bound, for some trials did not get there.

    Where most did not, the mean says little but the budget, which need not be that of other cells: no colour.

    Args:
        steps: of each cell.
        inits: initializers from top to bottom.
        limits: steps at the ends of the colours.
        title: of the figure.
    """
    figure, panels = _map_panels(steps, title, "hatched: few seeds got there; >: not all did; blank: not run")
    for place, (panel, depths) in panels.items():
        shown = {(init, depth): mean for (depth, init, p), mean in steps.items() if p == place}
        text = {key: f"{'> ' if m.reached < m.n else ''}{m.center:.0f}" for key, m in shown.items()}
        values = {key: m.center if 2 * m.reached > m.n else math.inf for key, m in shown.items()}
        value_map(panel, values, inits, depths, text, limits=limits)
    return figure


def _map_panels(cells: Collection[Key], title: str, signs: str) -> tuple[Figure, Mapping[str, tuple[Axes, list[int]]]]:
    """Return a figure, and by place of BatchNorm a panel as wide as it needs, with the depths that were run there."""
    every = {depth for depth, _, _ in cells}
    depths = {place: sorted({depth for depth, _, p in cells if p == place} or every) for place in PLACES}
    widths = [max(NARROWEST, len(run)) for run in depths.values()]
    figure, axes = plots.panels(1, len(PLACES), title=title, width=12.0, height=3.4, sharey=True, width_ratios=widths)
    for panel, name in zip(axes, PLACES.values(), strict=True):
        plots.label(panel, x="hidden layers", y="", title=name)
    figure.supxlabel(signs, fontsize=9)
    return figure, {place: (panel, depths[place]) for panel, place in zip(axes, PLACES, strict=True)}


def propagation(frame: pd.DataFrame, inits: Sequence[str], title: str) -> Figure:
    """Draw second moments of pre-activations and gradients by layer, measured and predicted.

    Args:
        frame: a row per number, with metrics as `probe_at_init` names them, at one depth.
        inits: initializers in the order of colours.
        title: of the figure.
    """
    figure, axes = plots.panels(2, len(PLACES), title=title, width=12.0, height=2.8, sharex=True)
    for row, metric in zip(axes, ("second_moment", "gradient_second_moment"), strict=True):
        for panel, place in zip(row, PLACES, strict=True):
            for color, init in zip(plots.CYCLE, inits, strict=False):
                arm = frame[(frame["init"] == init) & (frame["norm"] == place)].dropna(subset="layer")
                theory = arm[arm["metric"] == f"{metric}_theory"].groupby("layer")["value"]
                if len(theory):
                    predicted = [interval(values, log=True).center for _, values in theory]
                    by_layer(panel, arm[arm["metric"] == metric], name=init, color=color, predicted=predicted)
    for panel, place in zip(axes[0], PLACES.values(), strict=True):
        panel.set_title(place)
    plots.label(axes[0, 0], x="", y="pre-activations'\nsecond moment")
    plots.label(axes[1, 0], x="", y="loss gradients'\nsecond moment")
    for panel in axes[1]:
        panel.set_xlabel("layer")
    theory_in_legend(axes[0, 0])
    handles, names = axes[0, 0].get_legend_handles_labels()
    axes[0, -1].legend(handles, names, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def curves(frame: pd.DataFrame, inits: Sequence[str], title: str) -> Figure:
    """Draw training loss and validation accuracy, mean and band over seeds.

    Args:
        frame: a row per number, with metrics as `train` names them, at one depth.
        inits: initializers in the order of colours.
        title: of the figure.
    """
    figure, axes = plots.panels(2, len(PLACES), title=title, width=12.0, height=2.8, sharex="row", sharey="row")
    for row, metric, axis in zip(axes, ("train_loss", "validation_accuracy"), ("step", "epoch"), strict=True):
        for panel, place in zip(row, PLACES, strict=True):
            for color, init in zip(plots.CYCLE, inits, strict=False):
                arm = frame[(frame["init"] == init) & (frame["norm"] == place) & (frame["metric"] == metric)]
                # Dashed, so that a line beneath shows.
                dashes = "--" if init.startswith("normal(") else "-"
                plots.band(panel, arm, axis, name=init, log=metric == "train_loss", color=color, ls=dashes)
                if len(arm) and metric == "train_loss" and set(arm["outcome"]) == {"diverged"}:
                    plots.mark_diverged(panel, arm["first_bad_step"].min(), f"{init} diverges")
            plots.label(panel, x=axis, y="", title=PLACES[place] if metric == "train_loss" else "")
    axes[0, 0].set(yscale="log", ylim=(0.1, 20), ylabel="training loss (nats)")
    plots.log_ticks(axes[0, 0].yaxis)
    axes[1, 0].set(ylim=(0, 1), ylabel="validation accuracy")
    handles, names = axes[0, 1].get_legend_handles_labels()
    axes[0, -1].legend(handles, names, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
