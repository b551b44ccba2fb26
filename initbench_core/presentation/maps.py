"""Maps: one cell per configuration, rows by columns, as outcomes or as a number."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from initbench_core.presentation.plots import INK, OUTCOME_STYLE

Row = TypeVar("Row", bound=Hashable)
Column = TypeVar("Column", bound=Hashable)

# A cell's width and height: what is left of 1 separates it from its neighbours.
WIDTH, HEIGHT = 0.96, 0.92
# Few steps are dark and many light; it runs evenly in lightness, so that it reads in grey as well.
VALUE_COLORS = "cividis"


def outcome_map(
    axes: Axes,
    cells: Mapping[tuple[Row, Column], Sequence[str]],
    rows: Sequence[Row],
    columns: Sequence[Column],
    text: Mapping[tuple[Row, Column], str],
) -> None:
    """Draw a grid of cells, each split among the outcomes of its repetitions, with a line of text.

    Args:
        axes: where to draw.
        cells: outcomes of the repetitions by (row, column); a cell that is missing was not run and stays empty.
        rows: row names from top to bottom.
        columns: column names from left to right.
        text: what to write into a cell.
    """
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            outcomes = cells.get((row, column), ())
            left = float(j)
            for name, (color, _) in OUTCOME_STYLE.items():
                share = list(outcomes).count(name) / max(1, len(outcomes))
                axes.add_patch(Rectangle((left, i), share * WIDTH, HEIGHT, color=color, alpha=0.85, lw=0))
                left += share * WIDTH
            if outcomes:
                _write(axes, i, j, text.get((row, column), ""), "black")
    _frame(axes, rows, columns)


def value_map(
    axes: Axes,
    values: Mapping[tuple[Row, Column], float],
    rows: Sequence[Row],
    columns: Sequence[Column],
    text: Mapping[tuple[Row, Column], str],
    *,
    limits: tuple[float, float],
    log: bool = True,
) -> None:
    """Draw a grid of cells coloured by a number, as steps to a target, with a line of text.

    Args:
        axes: where to draw.
        values: the number by (row, column); nan or inf is drawn hollow and hatched: no repetition got there. A cell
            that is missing was not run and stays empty.
        rows: row names from top to bottom.
        columns: column names from left to right.
        text: what to write into a cell.
        limits: numbers at the ends of the colours; give all panels the same.
        log: whether colours go by the number's logarithm.
    """
    norm = (LogNorm if log else Normalize)(*limits, clip=True)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if (row, column) not in values:
                continue
            value = values[row, column]
            if math.isfinite(value):
                color = mpl.colormaps[VALUE_COLORS](norm(value))
                axes.add_patch(Rectangle((j, i), WIDTH, HEIGHT, color=color, lw=0))
                lightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
                ink = "black" if lightness > 0.5 else "white"
                _write(axes, i, j, text.get((row, column), ""), ink, around=color)
            else:
                axes.add_patch(Rectangle((j, i), WIDTH, HEIGHT, fc="none", ec="#cccccc", hatch="///", lw=0))
                _write(axes, i, j, text.get((row, column), ""), INK)
    _frame(axes, rows, columns)


def _write(axes: Axes, i: int, j: int, text: str, color: str, around: tuple[float, ...] | None = None) -> None:
    place = {"ha": "center", "va": "center", "linespacing": 1.1}
    written = axes.text(j + WIDTH / 2, i + HEIGHT / 2, text, fontsize=8.5, color=color, **place)  # type: ignore[arg-type]
    if around is not None:
        # In the cell's own colour, so that the text reads where a line runs through the cell as well.
        written.set_path_effects([withStroke(linewidth=3, foreground=around)])


def _frame(axes: Axes, rows: Sequence[Hashable], columns: Sequence[Hashable]) -> None:
    """Name rows and columns, and take away what belongs to a plot with scales."""
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_xticks([j + WIDTH / 2 for j in range(len(columns))], [str(c) for c in columns])
    axes.set_yticks([i + HEIGHT / 2 for i in range(len(rows))], [str(r) for r in rows])
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
