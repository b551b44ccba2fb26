"""Maps and curves: what is drawn is what was given, rendered once each."""

import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from initbench_core.presentation.censored import restricted_mean
from initbench_core.presentation.curves import by_layer, distributions_by_layer, survival_curves, theory_in_legend
from initbench_core.presentation.depth_study import step_maps
from initbench_core.presentation.finding import Finding, finding_of
from initbench_core.presentation.maps import outcome_map, value_map
from initbench_core.presentation.plots import (
    CYCLE,
    OUTCOME_STYLE,
    label,
    log_ticks,
    mark_diverged,
    outcome_legend,
    panels,
    say,
    style,
)

INITS, DEPTHS = ("normal(0.01)", "kaiming_normal"), (2, 20, 100)


def rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_outcome_map_splits_a_cell_among_its_outcomes() -> None:
    with style():
        figure, axes = panels(1, 1, title="outcomes")
        cells = {(i, d): ["trained"] * 3 + ["diverged"] for i in INITS for d in DEPTHS[:2]}
        outcome_map(axes, cells, INITS, DEPTHS, dict.fromkeys(cells, "0.31"))
        outcome_legend(axes, ["trained", "diverged"])
        assert len(rendered(figure)) > 5000
    widths = {p.get_facecolor()[:3]: p.get_width() for p in axes.patches if p.get_width() > 0}
    assert sorted(widths.values()) == pytest.approx([0.96 / 4, 0.96 * 3 / 4])
    assert len(widths) == 2 < len(OUTCOME_STYLE)
    # What was not run has no text.
    assert len(axes.texts) == 4


def test_value_map_hatches_what_was_never_reached() -> None:
    with style():
        figure, axes = panels(1, 1, title="steps")
        values = {("normal(0.01)", 2): math.inf, ("kaiming_normal", 2): 100.0, ("kaiming_normal", 20): 3000.0}
        value_map(axes, values, INITS, DEPTHS, {c: f"{v:.0f}" for c, v in values.items()}, limits=(100, 3000))
        assert len(rendered(figure)) > 5000
    hatched, fast, slow = axes.patches
    assert hatched.get_hatch() == "///"
    assert sum(fast.get_facecolor()[:3]) < sum(slow.get_facecolor()[:3])
    # White on dark, black on light.
    assert [t.get_color() for t in axes.texts][1:] == ["white", "black"]
    # Each in an outline of its cell's colour, for a line may run through the cell.
    outlines = [effect._gc["foreground"] for text in axes.texts[1:] for effect in text.get_path_effects()]
    assert outlines == [fast.get_facecolor(), slow.get_facecolor()]


def test_survival_curves_end_at_the_budget_with_a_mark() -> None:
    with style():
        figure, axes = panels(1, 1, title="survival")
        survival_curves(axes, {"none": [400, math.inf, math.inf], "BatchNorm": [50, 60, 80]}, 1000)
        axes.legend()
        assert len(rendered(figure)) > 5000
    curves = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert set(curves) == {"none (1 of 3)", "BatchNorm (3 of 3)"}
    assert all(line.get_xdata()[-1] == 1000 for line in curves.values())
    assert curves["none (1 of 3)"].get_ydata()[-1] == pytest.approx(2 / 3, abs=0.01)
    assert [line.get_marker() for line in axes.lines].count("|") == 1


def test_a_survival_curve_over_a_dozen_epochs_has_plain_ticks() -> None:
    with style():
        figure, axes = panels(1, 1, title="survival")
        survival_curves(axes, {"He": [1, 2, 7, math.inf]}, 12, unit="epochs")
        rendered(figure)
    low, high = axes.get_xlim()
    assert [t.get_text() for t in axes.get_xticklabels() if low <= t.get_position()[0] <= high] == [
        "0.5", "1", "2", "5", "10",
    ]  # fmt: skip


def test_a_short_budget_that_most_seeds_exceed_is_not_drawn_as_fast() -> None:
    steps = {
        (20, "orthogonal", "none"): restricted_mean([50, 100, 150], 1500),
        (1000, "orthogonal", "none"): restricted_mean([50, math.inf, math.inf], 100),
    }
    with style():
        figure = step_maps(steps, ["orthogonal"], (25, 1500), "steps")
    fast, exceeded = figure.axes[0].patches
    assert fast.get_hatch() is None
    assert exceeded.get_hatch() == "///"
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "> 83"]


def test_a_map_has_the_columns_that_were_run_and_gives_them_room() -> None:
    steps = {(depth, "orthogonal", "none"): restricted_mean([50, 60], 100) for depth in (2, 4, 8, 20, 50, 100)}
    steps |= {(depth, "orthogonal", "after"): restricted_mean([50, 60], 100) for depth in (4, 20)}
    with style():
        figure = step_maps(steps, ["orthogonal"], (25, 100), "steps")
        figure.canvas.draw()
    wide, _, narrow = figure.axes
    assert [tick.get_text() for tick in wide.get_xticklabels()] == ["2", "4", "8", "20", "50", "100"]
    assert [tick.get_text() for tick in narrow.get_xticklabels()] == ["4", "20"]
    assert wide.get_position().width == pytest.approx(1.5 * narrow.get_position().width, rel=0.01)


def test_by_layer_draws_theory_dashed_over_the_measurement() -> None:
    layers = np.tile(np.arange(1, 6), 3)
    measured = pd.DataFrame({"layer": layers, "value": 2.0**layers * np.repeat([0.9, 1.0, 1.1], 5)})
    with style():
        figure, axes = panels(1, 1, title="by layer")
        by_layer(axes, measured, name="He", color=CYCLE[0], predicted=2.0 ** np.arange(1, 6))
        theory_in_legend(axes)
        axes.legend()
        assert len(rendered(figure)) > 5000
    drawn, predicted, _ = axes.lines
    assert drawn.get_color() == CYCLE[0]
    assert predicted.is_dashed()
    # Of several lines each has its own theory: a darker shade of its colour.
    assert to_rgb(predicted.get_color()) == pytest.approx([0.55 * part for part in to_rgb(CYCLE[0])])
    np.testing.assert_allclose(drawn.get_ydata(), predicted.get_ydata(), rtol=0.01)
    assert axes.get_yscale() == "log"


def test_distributions_by_layer_draw_two_bands() -> None:
    entries = np.random.default_rng(0).normal(size=(1000, 4)) * np.arange(1, 5)
    quantiles = pd.DataFrame({q: np.quantile(entries, q, axis=0) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}, [1, 2, 3, 4])
    with style():
        figure, axes = panels(1, 1, title="distributions")
        distributions_by_layer(axes, quantiles, color=CYCLE[0])
        assert len(axes.lines) == 1
        distributions_by_layer(axes, quantiles.assign(mean=[0.1, 0.2, 0.3, 0.4]), color=CYCLE[0])
        assert len(rendered(figure)) > 5000
    assert len(axes.collections) == 4
    assert list(axes.lines[-1].get_ydata()) == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("range_", [(4.01, 4.09), (3.2, 7.4), (0.9, 5.5), (0.3, 25), (0.02, 40), (1e-3, 1e5)])
def test_labels_of_a_log_axis_do_not_overlap(range_: tuple[float, float]) -> None:
    """Two or more, in a panel as narrow as that of the speed figures; matplotlib's own do at 3.2 to 7.4."""
    with style():
        figure, axes = panels(1, 4, title="ranges", width=11.9, height=3.4, sharey=True)
        axes[0].plot(range_, range_)
        axes[0].set(xscale="log", yscale="log")
        for axis in (axes[0].xaxis, axes[0].yaxis):
            log_ticks(axis)
        rendered(figure)
        for axis in (axes[0].xaxis, axes[0].yaxis):
            low, high = axis.get_view_interval()
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            assert len(ticks) >= 2
            boxes = [tick.label1.get_window_extent() for tick in ticks]
            assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
            assert not any(label.get_text() for label in axis.get_minorticklabels())


@pytest.mark.parametrize("width", [8.0, 14.0])
@pytest.mark.parametrize("words", [1, 40, 120])
def test_a_finding_stands_between_title_and_panels(width: float, words: int) -> None:
    with style():
        figure, axes = panels(2, 2, title="What was found on digits5k, 5 seeds. " * 3, width=width)
        for panel in axes[0]:
            panel.set_title("a panel\nof two lines")
        sentence = "Measured 1.46 (95% 1.45 to 1.47). " * words
        say(
            figure, sentence, "plain_depth, quick profile, cpu: a processor, 2 threads; torch 2.15.0, triton 3.9.0 " * 2
        )
        # At the resolution of the files, where fonts are of other widths.
        figure.set_dpi(130)
        figure.canvas.draw()
    title, text, origin = figure.texts
    assert text.get_text().split() == sentence.split()
    above, found, below = (words.get_window_extent() for words in (title, text, origin))
    top = max(panel.get_tightbbox().y1 for panel in axes.flat)
    assert top < below.y0 < below.y1 < found.y0 < found.y1 < above.y0 < above.y1 < figure.bbox.y1
    assert max(words.x1 for words in (above, found, below)) < figure.bbox.x1
    # The panels keep their height.
    assert axes[0, 0].get_position().height * figure.get_figheight() > 2.5


def test_a_figure_shows_the_findings_that_name_it_or_the_headline() -> None:
    findings = ["Headline.", Finding("On steps.", "steps", "curves"), "Detail.", Finding("More on steps.", "steps")]
    assert finding_of("steps", findings) == "On steps. More on steps."
    assert finding_of("curves", findings) == "On steps."
    assert finding_of("map", findings) == "Headline."
    assert finding_of("map", []) == ""
    with style():
        figure, _ = panels(1, 1, title="nothing found")
        say(figure, "")
    assert len(figure.texts) == 1


def test_a_divergence_stands_beneath_the_panels_title() -> None:
    with style():
        figure, axes = panels(1, 1, title="curves")
        label(axes, x="step", y="loss", title="no BatchNorm")
        mark_diverged(axes, 0, "normal(1) diverges")
        figure.canvas.draw()
    (marker,), (text,) = axes.lines, axes.texts
    inside = axes.get_window_extent()
    for drawn in (marker, text):
        assert inside.y0 < drawn.get_window_extent().y0 < drawn.get_window_extent().y1 <= inside.y1
