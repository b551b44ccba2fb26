"""Speed-ups from paired samples: within rounds, with parity named, and figures of any number of implementations."""

import numpy as np
import pandas as pd
import pytest

from initbench_core.measurement.roofline import COPY
from initbench_core.presentation import speed, speed_plots
from initbench_core.presentation.plots import style
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Record

TITLES = {"eager": "Eager", "fast": "Fast", "same": "Same", "slow": "Slow"}


@pytest.fixture
def rows() -> pd.DataFrame:
    """A machine whose pace changes by the round: only ratios within rounds are steady."""
    generator = np.random.default_rng(0)
    pace = generator.uniform(1, 10, 30)
    parts = []
    for case in ("small", "large"):
        factors = {COPY: 0.1, "eager": 1.0, "fast": 0.5, "same": 1.0, "slow": 2.0}
        times = {name: (pace * factor * generator.normal(1, 0.02, 30)).tolist() for name, factor in factors.items()}
        record = Record(
            "e", {"case": case}, "i", [speed.measurement("fwd_bwd", times), speed.measurement("eval", times)]
        )
        parts.append(tidy([record]))
    return speed.speedups(pd.concat(parts), "eager")


def test_ratios_are_within_rounds(rows: pd.DataFrame) -> None:
    one = rows[(rows["case"] == "small") & (rows["pass"] == "eval")].set_index("implementation")
    assert one.loc["fast", "speed-up"] == pytest.approx(2, rel=0.03)
    assert one["verdict"].to_dict() | {"eager": None, COPY: None} == {
        COPY: None, "eager": None, "fast": "faster", "same": "parity", "slow": "slower",
    }  # fmt: skip
    assert one.loc["fast", "high"] - one.loc["fast", "low"] < 0.1, "the pace of the machine cancels"
    assert np.isnan(one.loc["eager", "speed-up"])
    assert np.isnan(one.loc[COPY, "speed-up"])
    assert speed.ratio(one.loc["same"]).startswith("parity (95% ")
    assert speed.ratio(one.loc["fast"]).startswith("2.0")


def test_tally_and_means(rows: pd.DataFrame) -> None:
    rivals = rows.dropna(subset="speed-up")
    assert speed.tally(rivals) == "4 faster, 4 at parity, 4 slower"
    assert speed.geometric_mean(pd.Series([1.0, 4.0])) == pytest.approx(2)
    assert speed.geometric_mean(pd.Series([1.0, 4.0]), pd.Series([1, 0])) == pytest.approx(1)


def test_the_mean_has_an_interval_over_rounds(rows: pd.DataFrame) -> None:
    """It covers the truth, narrows with the number of cases, and does not grow with their spread."""
    rivals = rows.dropna(subset="speed-up")
    means = {name: speed.mean_speedup(part) for name, part in rivals.groupby("implementation")}
    assert means["fast"].low < 2 < means["fast"].high < means["fast"].low + 0.1
    assert speed.verdict(means["same"]) == "parity"
    one = rivals[(rivals["implementation"] == "fast") & (rivals["case"] == "small") & (rivals["pass"] == "eval")]
    alone = speed.mean_speedup(one)
    assert alone.center == one["speed-up"].iloc[0]
    assert alone.high - alone.low > means["fast"].high - means["fast"].low
    weighted = speed.mean_speedup(rivals, (rivals["implementation"] == "slow").astype(int))
    assert weighted.low < 0.5 < weighted.high < 0.55


def test_the_floor_goes_by_rounds(rows: pd.DataFrame) -> None:
    """A pace that changes tenfold cancels; forward and backward move four copies' bytes."""
    fast = rows[(rows["implementation"] == "fast") & (rows["case"] == "small")].set_index("pass")
    for pass_name, copies in (("fwd_bwd", 4), ("eval", 1)):
        over = speed.over_floor(rows)[rows.index[(rows["case"] == "small") & (rows["pass"] == pass_name)]]
        assert [round(float(np.median(samples)) * copies) for samples in over] == [1, 10, 5, 10, 20]
        assert over.iloc[2].std() * copies < 0.5
    assert fast["samples"].map(len).tolist() == [30, 30]


def test_without_a_baseline_there_is_no_speed_up() -> None:
    record = Record("e", {"case": "c"}, "i", [speed.measurement("eval", {"fast": [1.0, 2.0]})])
    rows = speed.speedups(tidy([record]), "eager")
    assert rows["speed-up"].isna().all()
    assert rows["ms"].tolist() == [1.5]


def test_samples_must_be_of_equal_number() -> None:
    with pytest.raises(ValueError, match="unpack"):
        speed.measurement("eval", {"a": [1.0], "b": [1.0, 2.0]})


def test_the_summary_names_what_is_missing(rows: pd.DataFrame) -> None:
    titles = {**TITLES, "gone": "Gone"}
    table = speed.summary(rows, titles, speed_plots.PASS_TITLES, {"gone": "not installed: gone"})
    assert table["implementation"].tolist() == ["Fast", "Same", "Slow", "Gone"]
    assert list(table.columns) == ["implementation", "forward and backward", "evaluation", "shapes"]
    assert table["shapes"].tolist() == ["2", "2", "2", "not measured: not installed: gone"]
    assert table["evaluation"][0].startswith(("1.9", "2.0"))
    assert [cell.split("], ")[1] for cell in table["evaluation"][:3]] == ["2/0/0", "0/2/0", "0/0/2"]
    assert table["evaluation"][1].startswith("parity [")


def test_figures_have_a_panel_per_pass_and_a_colour_per_implementation(rows: pd.DataFrame) -> None:
    rows = rows.assign(MB=rows["case"].map({"small": 1.0, "large": 10.0}))
    with style():
        figure = speed_plots.speedups(rows, TITLES, title="t")
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["forward and backward", "evaluation"]
        drawn = {c.get_label(): c.lines[0].get_color() for c in figure.axes[0].containers}
        assert set(drawn) == {"Fast", "Same", "Slow"}
        assert len(set(drawn.values())) == 3
        sizes = speed_plots.against_size(rows, TITLES, "ms", title="t", copy="a copy", better="lower", named=["large"])
        assert [text.get_text() for text in sizes.axes[0].texts] == ["large"]
        assert sizes.axes[0].get_ylabel() == "ms (lower is faster)"
        assert {line.get_label() for line in sizes.axes[0].lines} == {"Eager", "Fast", "Same", "Slow", "a copy"}
        # Equal times stand side by side, in the order of the legend.
        places = {line.get_label(): line.get_xdata()[0] for line in sizes.axes[0].lines}
        assert places["Eager"] < places["Fast"] < places["Same"] < places["Slow"]
        assert places["Slow"] / places["Eager"] == pytest.approx(speed_plots.STEP_ASIDE**3)


def test_memory_off_the_median_has_the_names_of_its_cases() -> None:
    cases = ["a", "b", "c", "d", "e", "f", "g"]
    kept = {"eager": [1.0] * 7, "fast": [1.0, 1.05, 1.0, 1.0, 2.0, 2.001, 3.0], "slow": [1.0] * 4 + [4.0] * 3}
    rows = pd.DataFrame([
        {"case": case, "implementation": name, "kept": amount, "peak": np.nan}
        for name, amounts in kept.items() for case, amount in zip(cases, amounts, strict=True)
    ])  # fmt: skip
    with style():
        first, second = speed_plots.memory(rows, TITLES, title="t").axes
    assert [text.get_text() for text in first.texts] == ["e, f", "g", "e, f and 1 more"]
    assert [text.get_text() for text in second.texts] == ["not measured"] * 3


def test_who_is_far_off_does_not_hide_the_others(rows: pd.DataFrame) -> None:
    """Twenty times as slow is an arrow with its number at the edge; the axis is for what can be told apart."""
    small = (rows["case"] == "small") & (rows["pass"] == "fwd_bwd")
    rows.loc[small & (rows["implementation"] == "slow"), ["speed-up", "low", "high"]] = [0.05, 0.04, 0.06]
    rows.loc[small & (rows["implementation"] == "fast"), ["speed-up", "low", "high"]] = [9.0, 8.0, 10.0]
    with style():
        panel = speed_plots.speedups(rows, TITLES, title="t").axes[0]
    assert panel.get_xlim() == pytest.approx((0.4, 2.5))
    assert sorted(text.get_text() for text in panel.texts) == ["0.05", "0.16", "4.2", "9"], "and the means"
    same = {c.get_label(): c.lines[0] for c in panel.containers}["Same"]
    assert all(0.9 < x < 1.1 for x in same.get_xdata())


def test_means_are_of_those_that_took_part_everywhere(rows: pd.DataFrame) -> None:
    """Over all cases, shown or not; a mean over some of them would not compare."""
    rows = rows[(rows["implementation"] != "slow") | (rows["case"] == "small")]
    with style():
        panel = speed_plots.speedups(rows, TITLES, title="t", shown=["large"]).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["large", "geometric mean"]
    drawn = {c.get_label(): len(c.lines[0].get_xdata()) for c in panel.containers}
    assert drawn == {"Fast": 2, "Same": 2, "Slow": 0}
