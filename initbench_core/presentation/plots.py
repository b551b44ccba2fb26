"""The suite's drawing: one style, and the few things that every figure draws the same way."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from initbench_core.presentation.statistics import interval

# matplotlib's petroff10, told apart with every common colour vision (Petroff 2021), without its red: that one marks
# divergence.
CYCLE = ["#3f90da", "#ffa90e", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
INK = "#333333"
QUIET = "#707070"

# How an outcome looks, in every figure: fill colour, marker.
OUTCOME_STYLE: dict[Any, Any] = {
    "trained": ("#3f90da", "o"),
    "learned": ("#94a4a2", "D"),
    "slow": ("#92dadd", "^"),
    "stalled": ("#b9ac70", "s"),
    "diverged": ("#bd1f01", "X"),
}

STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "figure.titlesize": 13,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "#e6e6e6",
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "savefig.dpi": 130,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the suite's style to figures made inside."""
    with mpl.rc_context(STYLE):
        yield


def panels(
    rows: int, columns: int, *, title: str, width: float = 9.0, height: float = 3.6, **options: Any
) -> tuple[Figure, Any]:
    """Make a titled figure of `rows` x `columns` axes; width in inches, height in inches per row."""
    figure = Figure(figsize=(width, height * rows + 0.3))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, **options)
    _entitle(figure, title)
    return figure, axes


def _entitle(figure: Figure, title: str) -> Text:
    """Give a figure its title, or the title it has, in lines as wide as the figure, and return it."""
    text = figure.suptitle(title.replace("\n", " "), x=0.01, ha="left", weight="bold")
    if _inches(figure, text)[0] > 0.98 * figure.get_figwidth():
        _fill(figure, text)
    return text


def say(figure: Figure, sentence: str, origin: str = "") -> None:
    """Write a sentence beneath the title of a figure of `panels`, and smaller where it comes from, each wrapped.

    The figure grows by as much.
    """
    engine, title = figure.get_layout_engine(), _entitle(figure, figure.get_suptitle())
    assert isinstance(engine, ConstrainedLayoutEngine)
    pad, gap = engine.get()["h_pad"], 0.05
    texts = [
        figure.text(0.01, 1.0, words, fontsize=size, color=color, ha="left", va="top", parse_math=False)
        for words, size, color in ((sentence, 10, INK), (origin, 8, QUIET))
        if words
    ]
    for text in texts:
        _fill(figure, text)
    heights = [_inches(figure, text)[1] + gap for text in texts]
    whole = figure.get_figheight() + sum(heights)
    figure.set_figheight(whole)
    # The layout leaves the title above its rectangle, and so a space between them.
    engine.set(rect=(0, 0, 1, 1 - sum(heights) / whole))
    top = pad + _inches(figure, title)[1] + gap
    for text, height in zip(texts, heights, strict=True):
        text.set_y(1 - top / whole)
        top += height


def _fill(figure: Figure, text: Text) -> None:
    """Break a text of one line into lines as wide as the figure."""
    words = text.get_text()
    # Characters differ in width, and from one resolution to another: a line is filled to 94%.
    share = 0.94 * 0.98 * figure.get_figwidth() / _inches(figure, text)[0]
    # "n = 5" is one word.
    whole_words = words.replace(" = ", "\u00a0=\u00a0")
    text.set_text(textwrap.fill(whole_words, max(1, int(share * len(words))), break_on_hyphens=False))


def _inches(figure: Figure, text: Text) -> tuple[float, float]:
    """Return the width and height of a text of the figure."""
    box = text.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def label(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Name the axes, with their units, and the panel."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title)


def log_ticks(axis: Axis, at: Iterable[float] = ()) -> None:
    """Put ticks on a log axis, `at` the given places or, if it has its limits, so few that no labels overlap.

    matplotlib labels minor ticks as "4 x 10^0" once the range is narrow, one across the other.
    """
    if places := list(at):
        axis.set_ticks(places)
        axis.set_minor_locator(NullLocator())
    else:
        _few_log_ticks(axis)
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axis.set_minor_formatter(NullFormatter())


def _few_log_ticks(axis: Axis) -> None:
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 0.7:
        # So close to linear that round steps read best.
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))


def band(axes: Axes, frame: pd.DataFrame, x: str, *, name: str, log: bool = False, **line: Any) -> None:
    """Draw mean and 95% interval over repetitions of `frame`'s "value" along column `x`."""
    if frame.empty:
        return
    rows = [(at, *interval(group["value"].to_numpy(), log=log)) for at, group in frame.groupby(x)]
    at, center, low, high = (np.array(column) for column in zip(*rows, strict=True))
    (drawn,) = axes.plot(at, center, label=name, **line)
    axes.fill_between(at, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)


def points(
    axes: Axes, at: Iterable[float], found: Sequence[tuple[float, ...]], *, name: str, color: str, marker: str = "o",
    hollow: Sequence[bool] = (),
) -> None:  # fmt: skip
    """Draw a center with its 95% interval at each place of `at`.

    Args:
        axes: where to draw.
        at: abscissas.
        found: results that begin with center, low and high (nan: no interval), one for each.
        name: for the legend.
        color: of all.
        marker: of all.
        hollow: which of them are bounds only, as a mean over censored trials; empty for none.
    """
    for i, (x, (center, low, high, *_)) in enumerate(zip(at, found, strict=True)):
        arms = [[center - low], [high - center]] if math.isfinite(low) else None
        face = "white" if hollow and hollow[i] else color
        axes.errorbar([x], [center], yerr=arms, fmt=marker, ms=6, color=color, mfc=face, capsize=3, lw=1.4, zorder=3)
    axes.plot([], [], marker, color=color, ms=6, label=name)


def theory(
    axes: Axes, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, name: str = "theory", **line: Any
) -> None:
    """Draw a prediction: always dashed."""
    axes.plot(x, y, **{"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.2, "zorder": 3, "label": name, **line})


def level(axes: Axes, y: float, name: str = "", *, outside: bool = False) -> None:
    """Draw a reference level as a dashed line, with its name at the right end above it or `outside` the axes."""
    axes.axhline(y, color=INK, linestyle=(0, (4, 2)), linewidth=1.0, zorder=1.5)
    place: dict[str, Any] = {"xytext": (-2, 3), "ha": "right", "va": "bottom"}
    if outside:
        place = {"xytext": (4, 0), "ha": "left", "va": "center"}
    axes.annotate(
        name, (1.0, y), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8, color=INK, **place
    )  # fmt: skip


def mark_outcomes(
    axes: Axes, x: Iterable[float], outcomes: Iterable[str], y: Iterable[float], *, filled: bool = True
) -> None:
    """Draw one marker a trial in its outcome's colour and shape; a diverged one stands at the upper edge."""
    for at, outcome, value in zip(x, outcomes, y, strict=True):
        color, marker = OUTCOME_STYLE[outcome]
        look = {"color": color, "marker": marker, "mfc": color if filled else "none", "ms": 6, "ls": "", "alpha": 0.85}
        if outcome == "diverged":
            axes.plot([at], [1.0], transform=axes.get_xaxis_transform(), clip_on=False, **look)
        else:
            axes.plot([at], [value], **look)


def mark_diverged(axes: Axes, x: float, text: str) -> None:
    """Mark a divergence at the top of the axes, where its values would be, with a word beside it."""
    color, marker = OUTCOME_STYLE["diverged"]
    # Beneath the edge, for above it stands the panel's title; the text beside the marker's middle.
    edge = axes.get_xaxis_transform() + ScaledTranslation(0, -6 / 72, axes.figure.dpi_scale_trans)
    axes.plot([x], [1.0], transform=edge, clip_on=False, color=color, marker=marker, ms=9, ls="")
    axes.annotate(
        text, (x, 1.0), xycoords=axes.get_xaxis_transform(), xytext=(9, -6), textcoords="offset points",
        va="center", fontsize=9, color=color,
    )  # fmt: skip


def outcome_legend(axes: Axes, shown: Iterable[str], *, top: float = 1.0) -> None:
    """Explain the outcomes that appear, beside the axes, from the fraction `top` of their height downwards."""
    present = set(shown)
    for name, (color, marker) in OUTCOME_STYLE.items():
        if name in present:
            axes.plot([], [], color=color, marker=marker, ls="", ms=8, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, top))
