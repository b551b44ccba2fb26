"""Curves of the study: trials still unsolved, measurements beside theory, distributions, all by step or layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from initbench_core.presentation.censored import survival
from initbench_core.presentation.plots import CYCLE, INK, band, label, log_ticks, panels, theory


def survival_curves(
    axes: Axes,
    steps: Mapping[str, Sequence[float] | np.ndarray | pd.Series],
    budget: float,
    *,
    unit: str = "steps",
    colors: Mapping[str, str] | None = None,
) -> None:
    """Draw the fraction of trials still unsolved after so many steps (Kaplan-Meier), with a bar where one was given up.

    Args:
        axes: where to draw; the steps are on a log scale.
        steps: steps to the target by configuration, one per trial; inf was not reached within the budget.
        budget: of every trial; each curve ends there.
        unit: "steps", "epochs" or "seconds".
        colors: by configuration; None takes the cycle.
    """
    solved = [s for group in steps.values() for s in group if 0 < s <= budget]
    start = min([*solved, budget]) / 2
    for i, (name, group) in enumerate(steps.items()):
        curve = survival(group, budget)
        color = colors[name] if colors else CYCLE[i % len(CYCLE)]
        at = np.r_[start, curve.steps[1:], max(budget, curve.steps[-1])]
        left = np.r_[curve.unsolved, curve.unsolved[-1]]
        # Curves that run together, as at 1, are told apart by a shift of less than a line's width.
        left = left + 0.006 * (i - (len(steps) - 1) / 2)
        reached = f"{len(group) - len(curve.censored)} of {len(group)}"
        axes.plot(at, left, drawstyle="steps-post", color=color, label=f"{name} ({reached})")
        if len(curve.censored):
            axes.plot([curve.censored[-1]], [left[-1]], marker="|", ms=11, mew=2.2, color=color, clip_on=False)
    axes.set(xscale="log", xlim=(start, budget), ylim=(-0.03, 1.03))
    log_ticks(axes.xaxis)
    label(axes, x=f"{unit} (the budget ends at the right)", y="fraction of seeds still short of the target")


def by_layer(
    axes: Axes, measured: pd.DataFrame, *, name: str, color: str, predicted: Sequence[float] | np.ndarray | None = None
) -> None:
    """Draw a positive quantity by layer on a log scale, mean and band, and theory's value dashed over it.

    Args:
        axes: where to draw.
        measured: columns "layer" and "value", a row per layer and seed.
        name: of the configuration, for the legend.
        color: of the measured line.
        predicted: theory's value at each layer that `measured` has, in ascending order; None draws none.
    """
    band(axes, measured, "layer", name=name, log=True, color=color)
    if predicted is not None:
        # Darker, and still told apart where measurement and theory part.
        dark = tuple(0.55 * part for part in to_rgb(color))
        theory(axes, np.sort(measured["layer"].unique()), predicted, name="", color=dark)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def theory_in_legend(axes: Axes, name: str = "theory") -> None:
    """Add one entry for all dashed lines of the axes."""
    axes.plot([], [], color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label=name)


def distributions_by_layer(axes: Axes, quantiles: pd.DataFrame, *, color: str) -> None:
    """Draw how entries spread at each layer: bands from 5% to 95% and from 25% to 75%, and the median.

    Args:
        axes: where to draw.
        quantiles: a row per layer, columns 0.05, 0.25, 0.5, 0.75, 0.95, and "mean" where that is to be drawn.
        color: of the bands.
    """
    for low, high, alpha in ((0.05, 0.95, 0.25), (0.25, 0.75, 0.5)):
        axes.fill_between(quantiles.index, quantiles[low], quantiles[high], color=color, alpha=alpha, lw=0)
    axes.plot(quantiles.index, quantiles[0.5], color=INK, lw=1.0)
    if "mean" in quantiles:
        axes.plot(quantiles.index, quantiles["mean"], ".", color=INK, ms=5)


def distribution_panels(frame: pd.DataFrame, kind: str, title: str) -> Figure:
    """Draw how entries spread by layer, without BatchNorm above and with it below, as training goes on.

    Args:
        frame: a row per number of one seed, with the fields "activation", "norm" ("none", "before") and "epochs", and
            the metrics `kind`_quantile by layer and quantile, and activation_mean by layer.
        kind: "activation" or "gradient".
        title: of the figure.
    """
    looks = sorted(frame["epochs"].unique())
    columns = [(activation, epochs) for activation in frame["activation"].unique() for epochs in looks]
    options: dict[str, Any] = {"width": 11.0, "height": 2.4, "sharex": True, "sharey": "col"}
    figure, axes = panels(2, len(columns), title=title, **options)
    for i, norm in enumerate(("none", "before")):
        for panel, (activation, epochs) in zip(axes[i], columns, strict=True):
            cell = frame[(frame["activation"] == activation) & (frame["norm"] == norm) & (frame["epochs"] == epochs)]
            wide = cell[cell["metric"] == f"{kind}_quantile"].pivot(index="layer", columns="quantile", values="value")
            if kind == "activation":
                wide["mean"] = cell[cell["metric"] == "activation_mean"].set_index("layer")["value"]
            distributions_by_layer(panel, wide, color=CYCLE[i])
            panel.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
            if i == 0:
                panel.set_title(f"{activation}, " + ("start" if epochs == 0 else f"{epochs} epochs"))
            else:
                panel.set_xlabel("layer")
        axes[i, 0].set_ylabel(f"{kind},\n{'BatchNorm' if i else 'no BatchNorm'}")
    bands = "bands: 5% to 95% and 25% to 75% of the entries at the layers' outputs; line: median"
    # A gradient's is its median.
    figure.supxlabel(bands + "; dots: mean" * (kind == "activation"), fontsize=9)
    return figure


def loss_panels(frame: pd.DataFrame, panel: str, arm: str, names: Mapping[str, str], title: str) -> Figure:
    """Draw training loss by step, mean and band over seeds, in a panel for each value of one field.

    Args:
        frame: a row per number, with metrics as `train` names them.
        panel: the field with a panel for each of its values (six), in the order of the frame.
        arm: the field with a line for each of its values.
        names: of the values of `arm`, in the order of colours.
        title: of the figure.
    """
    losses = frame[frame["metric"] == "train_loss"]
    figure, axes = panels(2, 3, title=title, height=2.7, sharex=True, sharey=True)
    for axis, value in zip(axes.flat, losses[panel].unique(), strict=True):
        for color, (key, name) in zip(CYCLE, names.items(), strict=False):
            chosen = losses[(losses[panel] == value) & (losses[arm] == key)]
            band(axis, chosen, "step", name=name, log=True, color=color)
        axis.set(yscale="log", title=value)
    log_ticks(axes[0, 0].yaxis)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.supylabel("training loss (nats)", fontsize=10)
    # Below all panels: in none of them is a place that lines leave free on every data set.
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return figure
