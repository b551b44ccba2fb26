"""The figure of `gpu_check`: how close each implementation comes to the memory floor, for every shape."""

import pandas as pd
from matplotlib.figure import Figure

from initbench_core.presentation import plots

TITLES = {"eval": "evaluation", "fwd_train": "forward", "bwd": "backward", "fwd_bwd": "forward + backward"}
MARKERS = "oDs^vPXd*"


def draw(rows: pd.DataFrame) -> Figure:
    """Draw a panel per pass: floor over time, 1 being a copy's bandwidth at the fused passes' bytes.

    Args:
        rows: "case", "pass", "clock", "implementation" and "time / floor"; of the device's clock are drawn.
    """
    rows = rows[rows["clock"] == "device"]
    shapes, names = list(rows["case"].unique()), list(rows["implementation"].unique())
    figure, axes = plots.panels(
        1, len(TITLES), title="BatchNorm + ReLU on a GPU: floor / time (1: a copy's bandwidth; right is faster)",
        width=14.0, height=1.5 + 0.32 * len(shapes), sharey=True, squeeze=False,
    )  # fmt: skip
    for panel, (pass_name, title) in zip(axes[0], TITLES.items(), strict=True):
        for i, name in enumerate(names):
            part = rows[(rows["pass"] == pass_name) & (rows["implementation"] == name)]
            places = [shapes.index(shape) for shape in part["case"]]
            color, marker = plots.CYCLE[i % len(plots.CYCLE)], MARKERS[i % len(MARKERS)]
            panel.plot(1 / part["time / floor"], places, ls="", marker=marker, color=color, ms=6, label=name)
        panel.axvline(1, color=plots.INK, ls=(0, (4, 2)), lw=1.0)
        panel.set_xlim(0, max(1.1, *panel.get_xlim()))
        panel.set_yticks(range(len(shapes)), shapes)
        plots.label(panel, x="floor / time", y="", title=title)
    axes[0][0].invert_yaxis()
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=max(1, len(names)))
    return figure
